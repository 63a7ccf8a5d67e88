"""From a study to trials: which runs it asks for, what each is called, and which of them are still to do.

`expand` is pure: no clock, no folder of results, no model loaded. A trial's id is a hash of everything that can change
its numbers and of nothing else, so the same line of a study has the same id on every machine, and a rerun skips what
is committed. The hard case is knowing what can change the numbers: the files behind a name (weights, tokenizer, text,
task definitions) count by their content, the code by version constants that are raised when results change.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from calib.build import preflight
from calib.settings import SettingsError, as_dict, identity
from calib.spec import CalibrationSpec
from methods.base import Method, method_name
from methods.blockwise import steps_of
from methods.walk.shapes import LinearShape, shapes_after
from sweep.config import Study
from sweep.descriptor import chosen
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.tasks.files import task_hashes
from sweep.models import ModelRef, linear_shapes
from sweep.study_file.calibration import AXES, source_key
from sweep.study_file.evaluation import check_descriptors, check_first_blocks
from sweep.study_file.naming import set_name, varied

T = TypeVar("T")

PLAN_VERSION = 4  # raised when a change of the code outside methods and calibration changes a trial's numbers

ID_LENGTH = 16  # hex digits of a trial's id

EvaluationKey = tuple[str, int | None, str]  # of trials that share requests, see `evaluation_key`

# settings of the evaluation that count by the content behind them, or change no number
NOT_IN_IDENTITY = ("task_path", "heldout", "allow_code", "descriptors")
LATER = (("first_blocks", None),)  # settings younger than ids in use, left out of an id at these values


@dataclass(frozen=True, slots=True)
class Trial:
    """One run: one model, one method, one calibration set, evaluated."""

    id: str
    study: str
    seed: int
    model: ModelRef
    method: Method | None  # None is the dense model
    label: str
    spec: CalibrationSpec | None  # None for the dense model and for data-free methods
    calibration_id: str | None
    evaluation_id: str  # hash of what the evaluation can change of the numbers, the same for all trials of a study
    evaluation: EvaluationSettings = field(repr=False)
    varied: tuple[str, ...] = field(default=(), repr=False)  # axes that its name tells of its set, see `set_name`

    @property
    def method_name(self) -> str:
        return method_name(self.method) if self.method else "dense"

    @property
    def data_free(self) -> bool:
        return self.spec is None

    def __str__(self) -> str:
        text = f"{self.model.name} · {self.label}"
        return f"{text} · {set_name(self.spec, self.varied)}" if self.spec else text


@dataclass(frozen=True)
class Pool:
    """Calibration sets that one pass over a source builds, for one tokenizer."""

    model: ModelRef  # any model with this tokenizer; the one that writes the text or is asked, where a model is
    specs: tuple[CalibrationSpec, ...]
    ids: tuple[str, ...]  # of the sets, in the order of the specs
    describers: tuple[ModelRef, ...] = ()  # models that are asked what the sets are to them
    methods: Mapping[str, Method] = field(default_factory=dict)  # by label: what they are asked about

    @property
    def writes(self) -> bool:
        """Whether the model writes some of the text."""
        return any(spec.source.writes for spec in self.specs)

    @property
    def measures(self) -> bool:
        """Whether the model is asked which windows to choose."""
        return any(spec.select is not None and spec.select.needs is not None for spec in self.specs)

    @property
    def asks_model(self) -> bool:
        """Whether sets are this model's own."""
        return self.writes or self.measures

    @property
    def needs_device(self) -> bool:
        """Whether a model is run for these sets."""
        return self.asks_model or bool(self.describers)

    @property
    def model_id(self) -> str:
        """The fingerprint of the model whose own the sets are, '' where any with this tokenizer has the same."""
        return self.model.fingerprint if self.asks_model else ""

    @property
    def excludes(self) -> bool:
        """Whether documents that share words with the evaluation are left out of some of the text."""
        return any(spec.source.excluded_words for spec in self.specs)


@dataclass(frozen=True)
class ModelUse:
    """A model with what its trials do to it and give it: it must fit all of that before any of them runs."""

    model: ModelRef
    methods: tuple[Method, ...]
    calibration_ids: tuple[str, ...]
    trials: int = 1
    weighed: bool = False  # in some of its sets tokens count more or less than once


@dataclass(frozen=True)
class RequestSet:
    """Requests and held-out windows that are tokenized once, and the models that they are asked of."""

    trial: Trial  # any that needs them
    seqlens: tuple[int, ...]  # of the calibration windows that these models will see
    uses: tuple[ModelUse, ...]


def expand(study: Study) -> list[Trial]:
    """All trials of a study: model by model; the dense one first, then data-free methods, then the rest set by set."""
    choices = [
        _choice(method, label, method.identity()) for method, label in zip(study.methods, study.labels, strict=True)
    ]
    shared = [choice for choice in choices if choice.data_free]
    needing = [choice for choice in choices if not choice.data_free]
    evaluation_id = identity(evaluation_identity(study.evaluation))
    axes = varied(study.calibration)
    trials: list[Trial] = []
    for model in study.models:
        named = _Naming(_text(model.identity()), evaluation_id)
        trials += [_trial(study, model, choice, None, None, named) for choice in (_DENSE, *shared)]
        for spec in study.calibration if needing else ():
            calibration_id = spec.id(model.tokenizer_id, model.fingerprint)
            trials += [_trial(study, model, choice, spec, calibration_id, named, axes) for choice in needing]
    _refuse_same_ids(trials)
    return trials


def pending(trials: Sequence[Trial], done: Iterable[str], failed: Iterable[str], *, retry_failed: bool) -> list[Trial]:
    """The trials still to run: those not committed; failed ones only when `retry_failed`."""
    skip = set(done) if retry_failed else set(done) | set(failed)
    return [trial for trial in trials if trial.id not in skip]


def pools(trials: Iterable[Trial]) -> list[Pool]:
    """The calibration sets that these trials need, each once, in groups that one pass over a source builds."""
    groups: dict[str, dict[str, tuple[ModelRef, CalibrationSpec]]] = defaultdict(dict)
    seen: set[str] = set()
    users: dict[str, dict[str, ModelRef]] = defaultdict(dict)  # models by the set that they see
    described = False
    methods: dict[str, Method] = {}
    names: dict[tuple[str, str, int], str] = {}  # by writer, tokenizer and source: a study has a few of each
    for trial in trials:
        spec, calibration_id = trial.spec, trial.calibration_id
        if spec is None or calibration_id is None:
            continue
        users[calibration_id].setdefault(trial.model.name, trial.model)
        if trial.method is not None:
            methods.setdefault(trial.label, trial.method)
        if calibration_id in seen:
            continue
        described = described or bool(chosen(trial.evaluation.descriptors)[1])
        seen.add(calibration_id)
        writer = trial.model.fingerprint if spec.asks_model else ""
        key = writer, trial.model.tokenizer_id, id(spec.source)
        if key not in names:
            names[key] = identity({"writer": writer, "tokenizer": key[1], "source": spec.source.to_dict()})
        groups[names[key]][calibration_id] = (trial.model, spec)
    return [
        Pool(
            model=next(iter(group.values()))[0],
            specs=tuple(spec for _, spec in group.values()),
            ids=tuple(group),
            describers=tuple({n: m for key in group for n, m in users[key].items()}.values()) if described else (),
            methods=methods if described else {},
        )
        for group in groups.values()
    ]


def evaluation_key(trial: Trial) -> EvaluationKey:
    """Trials with the same key share one set of tokenized requests and held-out windows."""
    return trial.model.tokenizer_id, trial.model.max_length, trial.evaluation_id


def requests_of(pool: Pool, made: Mapping[EvaluationKey, T]) -> T | None:
    """Of what was made for each `evaluation_key` the one that has the pool's tokenizer; None where none was made."""
    return next((found for key, found in made.items() if key[0] == pool.model.tokenizer_id), None)


def request_sets(trials: Iterable[Trial], done: Iterable[Trial] = ()) -> dict[EvaluationKey, RequestSet]:
    """Each distinct set of requests, by key. Trials that are `done`, whose sets alone are made, are not counted."""
    groups: dict[EvaluationKey, list[Trial]] = defaultdict(list)
    to_run = [*trials]
    for trial in (*to_run, *done):
        groups[evaluation_key(trial)].append(trial)
    counted = {id(trial) for trial in to_run}
    return {
        key: RequestSet(
            trial=group[0],
            seqlens=tuple(sorted({trial.spec.seqlen for trial in group if trial.spec is not None})),
            uses=tuple(_use(model, group, counted) for model in dict.fromkeys(trial.model for trial in group)),
        )
        for key, group in groups.items()
    }


def _use(model: ModelRef, trials: Sequence[Trial], counted: Collection[int]) -> ModelUse:
    own = [trial for trial in trials if trial.model == model]
    methods = {trial.label: trial.method for trial in own if trial.method is not None}
    ids = dict.fromkeys(trial.calibration_id for trial in own if trial.calibration_id is not None)
    weighed = any(trial.spec is not None and trial.spec.weighs for trial in own)
    return ModelUse(model, tuple(methods.values()), tuple(ids), sum(id(trial) in counted for trial in own), weighed)


def check(study: Study) -> None:
    """Raise SettingsError for what is wrong before anything starts: files, columns, tasks, lengths, too little text."""
    lengths = [(model.max_length, model.name) for model in study.models if model.max_length is not None]
    for spec in study.calibration:
        for length, name in lengths:
            if spec.seqlen > length:
                raise SettingsError(
                    f"calibration.seqlen: {spec.seqlen} is longer than the context of {name} ({length} tokens); "
                    f"choose at most {length}"
                )
    study.evaluation.check("evaluation", min(lengths)[0] if lengths else None)
    check_descriptors(study.evaluation)
    check_first_blocks(study.evaluation, study.models, study.methods)
    preflight(_last_sets(study.calibration), "calibration.sets")
    _check_weights(study.calibration, study.methods)
    for model in study.models:
        _check_use(model, study.methods)
        _check_writer(model, study.calibration)
        for linear, (rows, cols) in linear_shapes(model).items():
            for method in study.methods:
                _check_shape(method, linear, rows, cols, model.name)


def evaluation_identity(evaluation: EvaluationSettings) -> dict[str, Any]:
    """What of the evaluation can change a trial's numbers: its settings, and the content of tasks and texts."""
    given = as_dict(evaluation).items()
    settings = {key: value for key, value in given if key not in NOT_IN_IDENTITY and (key, value) not in LATER}
    texts = [
        {**source.identity(), "label": source.label, "revision": source.revision()}
        for source in evaluation.heldout_sources()
    ]
    return {
        "version": PLAN_VERSION,
        "settings": settings,
        "heldout": texts,
        "task_files": task_hashes(evaluation.task_names, evaluation.task_path),
    }


@dataclass(frozen=True)
class _Choice:
    """A method of the study with its label and identity; no method is the dense model."""

    method: Method | None
    label: str
    identity: str  # JSON
    data_free: bool


def _choice(method: Method | None, label: str, of: Any) -> _Choice:
    return _Choice(method, label, _text(of), method is None or method.data_free)


@dataclass(frozen=True)
class _Naming:
    """What all trials of a model have in common of what their ids are hashes of."""

    model: str  # JSON of its identity
    evaluation_id: str

    def id(self, choice: _Choice, calibration_id: str | None) -> str:
        """`identity` of the mapping {calibration, evaluation, method, model}, whose parts are JSON already: a study of
        100,000 trials has a few dozen distinct ones."""
        calibration = _text(calibration_id) if calibration_id is None else f'"{calibration_id}"'
        text = (
            f'{{"calibration":{calibration},"evaluation":"{self.evaluation_id}","method":{choice.identity},'
            f'"model":{self.model}}}'
        )
        return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def _text(value: Any) -> str:
    """JSON as `identity` hashes it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


_DENSE = _choice(None, "dense", "dense")


def _trial(
    study: Study,
    model: ModelRef,
    choice: _Choice,
    spec: CalibrationSpec | None,
    calibration_id: str | None,
    named: _Naming,
    axes: tuple[str, ...] = (),
) -> Trial:
    return Trial(
        id=named.id(choice, calibration_id),
        study=study.name,
        seed=study.seed,
        model=model,
        method=choice.method,
        label=choice.label,
        spec=spec,
        calibration_id=calibration_id,
        evaluation_id=named.evaluation_id,
        evaluation=study.evaluation,
        varied=axes,
    )


def _last_sets(specs: Iterable[CalibrationSpec]) -> list[CalibrationSpec]:
    """Of each series of sets the last one: if a source can fill it, it can fill those before."""
    last: dict[str, CalibrationSpec] = {}
    for spec in specs:
        key = str((source_key(spec), *(getattr(spec, axis) for axis in AXES)))
        if key not in last or spec.set > last[key].set:
            last[key] = spec
    return list(last.values())


def _check_shape(method: Method, linear: str, rows: int, cols: int, model: str) -> None:
    shapes = [LinearShape(linear, rows, cols, f"{{}} of {model}")]
    for step in steps_of(method):
        try:
            shapes = shapes_after(step, shapes)
        except SettingsError as error:
            raise SettingsError(f"methods: {step.label}: {error}") from None


def _check_use(model: ModelRef, methods: Sequence[Method]) -> None:
    for step in (step for method in methods for step in steps_of(method)):
        if model.placement == "streamed" and step.needs_gradients:
            raise SettingsError(
                f"methods: {step.label}: needs gradients of the whole model at once, and {model.name} is streamed; "
                "leave the method out, or the model's `placement`"
            )
        if step.architectures and model.architecture not in (None, *step.architectures):
            raise SettingsError(
                f"methods: {step.label}: is for {', '.join(step.architectures)}, and {model.name} is a "
                f"{model.architecture}; leave the method out, or the model"
            )


def _check_weights(specs: Sequence[CalibrationSpec], methods: Sequence[Method]) -> None:
    weighs = next((spec for spec in specs if spec.weighs), None)
    for step in (step for method in methods for step in steps_of(method)):
        if weighs and step.needs_gradients:
            setting = "part" if weighs.part != "both" else "length_weights"
            raise SettingsError(
                f"calibration.{setting}: {step.label} looks at gradients of the loss, in which every token counts "
                f"once; leave the method or {setting} out"
            )


def _check_writer(model: ModelRef, specs: Sequence[CalibrationSpec]) -> None:
    for spec in specs:
        if model.placement == "streamed" and spec.source.writes:
            raise SettingsError(
                f"calibration.source: {spec.source.label}: {model.name} is streamed, and text can only be written by a "
                "model that is held whole; leave the source out, or the model's `placement`"
            )
        if not model.on_hub and not model.gguf:
            spec.source.check_tokenizer(model.path)


def _refuse_same_ids(trials: Sequence[Trial]) -> None:
    known: dict[str, Trial] = {}
    for trial in trials:
        other = known.setdefault(trial.id, trial)
        if other is not trial:
            place = "models" if other.model.name != trial.model.name else "calibration"
            raise SettingsError(f"{place}: '{other}' and '{trial}' are the same thing under two names; leave one out")
