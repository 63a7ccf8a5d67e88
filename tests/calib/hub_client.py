"""What a process of its own reads from the hub at `HF_ENDPOINT`; run as `python -m tests.calib.hub_client`.

It takes entries of sources as JSON lines, and gives for each a JSON line: the texts and the commit, or the error. An
entry `{"download": REPOSITORY}` puts the files of a data set into the cache.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from calib.settings import SettingsError
from calib.source import get_source


def answer(entry: Any) -> dict[str, Any]:
    if "download" in entry:
        from huggingface_hub import snapshot_download

        return {"folder": snapshot_download(entry["download"], repo_type="dataset", revision=entry["revision"])}
    try:
        source = get_source(entry)
        return {"texts": [document.text for document in source.documents()], "revision": source.resolved_revision()}
    except SettingsError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
