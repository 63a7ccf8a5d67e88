from __future__ import annotations

import json
import subprocess
import sys

import pytest

from calib.settings import SettingsError
from methods.base import METHODS, Composition, LayerReport, get_method, parse_method


def test_a_typo_gets_a_suggestion():
    with pytest.raises(SettingsError, match=r"^unknown method 'wnada', did you mean 'wanda'\?$"):
        get_method("wnada")
    with pytest.raises(SettingsError, match=r"^methods\[2\].method: unknown method 'gtpq', did you mean 'gptq'\?$"):
        parse_method({"method": "gtpq"}, "methods[2]")
    with pytest.raises(SettingsError, match=r"^gptq.bit: unknown key 'bit', did you mean 'bits'\?$"):
        get_method("gptq", bit=4)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"bits": 4}, r"m.method: expected the name of a method"),
        ({"method": 3}, r"m.method: expected the name of a method"),
        (7, r"m: expected a method name, a mapping or a list"),
        ([], r"m.a composition needs at least two methods"),
        (["rtn"], r"m.a composition needs at least two methods"),
        (["rtn", "nope"], r"m\[1\].method: unknown method"),
        ({"method": "rtn", "bits": "4"}, r"m.bits: expected integer, got '4'"),
        ({"method": "rtn", "bits": True}, r"m.bits: expected integer, got True"),
        ({"method": "gptq", "bits": 1}, r"m.bits: expected 2 to 8, got 1"),
        ({"method": "gptq", "linears": []}, r"m.linears: no pattern selects anything"),
        ({"method": "gptq", "linears": ["!a"]}, r"m.linears: no pattern selects anything"),
    ],
    ids=str,
)
def test_bad_entries_name_place_value_and_remedy(entry, message):
    with pytest.raises(SettingsError, match=message):
        parse_method(entry, "m")


def test_identity_holds_every_setting_as_plain_json():
    identity = get_method("gptq", bits=3).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["method"] == "gptq"
    assert identity["bits"] == 3
    assert {"propagate", "true_sequential", "percdamp", "version", "skip_blocks"} <= set(identity)


def test_composition_merges_what_its_steps_promise():
    method = parse_method(["sparsegpt", {"method": "gptq", "bits": 4}], "m")
    assert isinstance(method, Composition)
    assert method.label == "SparseGPT 50 % + GPTQ 4-bit"
    assert method.nominal() == {"bits": 4.0, "sparsity": 0.5, "pattern": None}
    assert not method.data_free
    assert parse_method(["magnitude", "rtn"], "m").data_free
    assert method.identity()["method"] == "sparsegpt+gptq"


def test_names_of_the_field_are_registered():
    assert {"rtn", "magnitude", "wanda", "sparsegpt", "gptq", "spqr"} <= set(METHODS.names())


def test_reports_are_rows_of_the_layers_table():
    from sweep.results import LAYERS

    report = LayerReport(step=0, block=0, linear="q", seconds=0.0, rows=2, cols=3)
    assert set(report.as_row()) == set(LAYERS.names) - {"trial_id"}


def test_reading_methods_imports_no_torch():
    code = (
        "import sys; from methods.base import parse_method, METHODS;"
        "[parse_method(n, 'm').label for n in METHODS.names()];"
        "bad = {'torch', 'transformers', 'ray', 'datasets'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
