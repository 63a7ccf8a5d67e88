"""Which of some texts should a model be calibrated with? A minute or two on two cores; the same call goes on.

python examples/advise.py results/advised
"""

from __future__ import annotations

import sys

from sweep.advise import advise

method = {"method": "gptq", "bits": 3, "group_size": 32}
candidates = ["books", "code", "encyclopedia", "web_docs"]  # or files: my.jsonl, notes.txt
small = {"nsamples": 16, "seqlen": 128, "windows": 8, "sets": 4}  # without these: 128 windows of 2,048 tokens
asked = {"targets": ["books"], "share": 0.5}

advice = advise("reference-2m", method, candidates, results=sys.argv[1], local=True, **asked, **small)
print(advice)
