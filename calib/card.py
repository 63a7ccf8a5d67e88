"""The card of a published calibration set: what it is, where its text comes from, and under which licence."""

from __future__ import annotations

import json
from collections.abc import Mapping

from calib.descriptor import describe
from calib.reading import told_weights
from calib.settings import SettingsError, one_line
from calib.spec import CalibrationSet

HUB_LICENCES: Mapping[str, str] = {  # as the hub's cards call them
    "Apache-2.0": "apache-2.0",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "MIT": "mit",
    "ODC-BY": "odc-by",
}
SHOWN_DOCUMENTS = 20


def card(calibration_set: CalibrationSet) -> str:
    """Markdown with the header that the hub reads."""
    spec = calibration_set.spec
    licences = licences_of(calibration_set)
    settings = json.dumps(spec.to_dict(calibration_set.revision), indent=2, sort_keys=True, ensure_ascii=False)
    numbers = describe(calibration_set)
    documents = sorted({document for window in calibration_set.documents_in for document in window})
    listed = "\n".join(f"- `{one_line(document)}`" for document in documents[:SHOWN_DOCUMENTS])
    more = f"\n- and {len(documents) - SHOWN_DOCUMENTS:,} more" if len(documents) > SHOWN_DOCUMENTS else ""
    windows, length = calibration_set.tokens.shape
    return f"""---
license: {HUB_LICENCES.get(licences[0], "other") if len(licences) == 1 else "other"}
pretty_name: Calibration set {calibration_set.id}
configs:
- config_name: default
  data_files: data/*.parquet
---

# Calibration set {calibration_set.id}

{windows:,} windows of {length:,} tokens of `{one_line(spec.source.label)}`, set {spec.set}, for the tokenizer
`{one_line(calibration_set.tokenizer_id)}`. A row is a window: its token ids, its text, and the pieces of documents it
is cut from (`documents`, `starts`, `lengths`, in tokens of the document).

- sha256 of the token ids (little-endian int32, window after window): `{calibration_set.hash}`
{_weights(calibration_set)}- revision of the source: `{one_line(calibration_set.revision)}`
- licence of the text: {"; ".join(licences)}

`python -m calib verify FOLDER` checks the hash, and with `--tokenizer` that the source still gives these tokens.

## How it was made

```json
{settings}
```

| descriptor | value |
|---|---|
{chr(10).join(f"| {name} | {value:.4g} |" for name, value in numbers.items() if value is not None)}

## Attribution

{len(documents):,} documents:

{listed}{more}
"""


def _weights(calibration_set: CalibrationSet) -> str:
    told = told_weights(calibration_set)
    return f"- {told} (`responses` marks them; see `part` and `length_weights` below)\n" if told else ""


def licences_of(calibration_set: CalibrationSet) -> list[str]:
    """The licences of the text, as its source knows them."""
    try:
        return calibration_set.spec.source.licences()
    except SettingsError:
        return ["unknown"]
