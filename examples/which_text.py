"""From a model folder and a JSONL file to an answer: should GPTQ see your text, or another? Two minutes on two cores.

python examples/which_text.py my-model my.jsonl results/mine [CHECKPOINT]
"""

import sys

from sweep.advise import advise
from sweep.export import main as export

model, text, results, *checkpoint = sys.argv[1:]
method = {"method": "gptq", "bits": 3, "group_size": 32}
small = {
    "nsamples": 16,
    "seqlen": 128,
    "windows": 8,
    "sets": 3,
}  # without these: 12 sets of 128 windows of 2,048 tokens
asked = {"targets": ["encyclopedia"], "share": 0.8}  # your own held-out text here; share: of the whole study's time
answer = advise(model, method, [text, "books"], results=results, local=True, **asked, **small)
print(answer)
if checkpoint and answer.trial:  # the trial that the answer names, as a folder for transformers and vLLM
    sys.exit(export([answer.trial, "--results", results, "--out", checkpoint[0]]))
