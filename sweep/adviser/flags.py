"""The flags of `python -m sweep.advise`, each with its help: what is asked, what it may cost, and where it runs."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="A bundled name, a folder, or a hub id.")]
MethodName = Annotated[str, typer.Option("--method", help="gptq, awq, wanda, sparsegpt, ...")]
Candidates = Annotated[list[str], typer.Option(help="Text or JSONL files, and names of sources, two or more.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting of the method, such as bits=4.")]
Bits = Annotated[int | None, typer.Option(help="Short for --set bits=.")]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", help="Text to do well on: files, or bundled held-out texts [default: all of those]."),
]
Tasks = Annotated[list[str] | None, typer.Option(help="lm-eval tasks, a target together.")]
Measure = Annotated[str, typer.Option(help="Of tasks: accuracy or loglikelihood.")]
Budget = Annotated[str | None, typer.Option(help="Wall time of all workers, such as 90s, 20m or 2h.")]
Share = Annotated[float | None, typer.Option(help="Instead: share of the full study's time [default: 0.25].")]
Matters = Annotated[
    list[float] | None,
    typer.Option(help="The difference that matters, in the target's unit [default: 0.1 SD of a draw]."),
]
Guarantee = Annotated[
    bool,
    typer.Option(
        "--guarantee",
        help="Race on full draws alone that errs at most one time in ten. With a quarter of a study it can only tell a "
        "lead of about 2.7 SD of a draw.",
    ),
]
Criterion = Annotated[str, typer.Option(help="mean, or lower-quantile: what one draw in ten exceeds.")]
Uniform = Annotated[bool, typer.Option(help="Whether the even mixture of the candidates takes part.")]
Mixtures = Annotated[list[str] | None, typer.Option("--mixture", help="A mixture that takes part: books=0.7,code=0.3.")]
SearchMixture = Annotated[
    bool, typer.Option("--search-mixture", help="Look for a mixture that beats its parts, on screens; it takes part.")
]
Sets = Annotated[int, typer.Option(help="Calibration sets of each candidate in the full study.")]
Nsamples = Annotated[int, typer.Option(help="Calibration windows.")]
Seqlen = Annotated[int | None, typer.Option(help="Tokens of a window [default: 2048, or the context].")]
Windows = Annotated[int | None, typer.Option(help="Windows of each target text [default: 32].")]
Limit = Annotated[int | None, typer.Option(help="Examples of each task [default: all].")]
TaskPath = Annotated[str | None, typer.Option(help="Folder with task YAML of one's own.")]
Seed = Annotated[int, typer.Option(help="Seed of the calibration sets.")]
AllowOverlap = Annotated[
    bool, typer.Option("--allow-overlap", help="Go on although a candidate holds text of the target.")
]
ResultsFolder = Annotated[
    str | None,
    typer.Option("--results", help="Folder or s3:// gs:// URI of the results [default: results/advise-...]."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be asked, and stop.")]
Local = Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster (auto, or host:port).")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")]
Workers = Annotated[int | None, typer.Option(help="Workers [default: as many as there is room for].")]
GpusPerWorker = Annotated[
    float | None, typer.Option(help="GPUs of a worker; 0.5 lets two share one, 0 runs on CPUs [default: by the model].")
]
