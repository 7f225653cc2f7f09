"""From passes.json to a profile: the one cost function, fitted to passes of target and draft together.

Work comes from the models' sizes, so that the profile forecasts other draft lengths, batches, contexts and models.
"""

from collections.abc import Sequence

import numpy as np

from acceptance.bench.passes import Point
from calibration.sources.passes import PassTimes
from calibration.sources.probe import Observations
from simulator.costs.profile import MEASURED, Profile
from simulator.costs.ranges import TimedRange

from .diagnostics import CheckedFit, Diagnosis, checked
from .fit import KNOTS, Fit, Form, best_fit
from .lengths import check_timed

# Fewer batches and contexts are all fitted.
LEAST_SETTINGS = 4
# Largest over least bytes of a pass, from which seconds a byte may be a curve over them.
LEAST_RANGE = 2.0


def unseen_setting(times: PassTimes) -> tuple[int, int] | None:
    """Return the batch and context that no fit sees: one in the middle by tokens held; None where there are few."""
    settings = times.settings
    return settings[len(settings) // 2] if len(settings) >= LEAST_SETTINGS else None


def is_seen(times: PassTimes, point: Point, lengths: Sequence[int] | None) -> bool:
    """Whether a fit to these draft lengths sees a pass; None: to all."""
    if (point.batch, point.context) == unseen_setting(times):
        return False
    return point.new_tokens == 1 or lengths is None or point.new_tokens - 1 in lengths


def pass_observations(times: PassTimes, lengths: Sequence[int] | None) -> Observations:
    """Return passes with the work of their shapes; a layer counts as a launch."""
    labels, columns = [], []
    for p, time in times.times.items():
        shape, size = times.shapes[p.role], (p.batch, p.new_tokens, p.context)
        labels.append(f"{shape.name}, batch {p.batch}, context {p.context}, new {p.new_tokens}")
        work = (float(shape.flops(*size)), float(shape.bytes_moved(*size, times.dtype)))
        columns.append((1.0, *work, p.batch * p.new_tokens, shape.layers, time.seconds, time.error_s))
    names = ("passes", "flops", "bytes", "tokens", "launches", "seconds", "error_s")
    held_out = np.array([not is_seen(times, p, lengths) for p in times.times])
    arrays = dict(zip(names, np.array([*zip(*columns, strict=True)], np.float64), strict=True))
    return Observations(labels=tuple(labels), held_out=held_out, **arrays)


def fit_passes(times: PassTimes, lengths: Sequence[int] | None = None) -> CheckedFit:
    """Fit passes with constants and with curves, and check the best by its information criterion.

    A layer's launch is fitted and no fixed time of a pass: two models do not tell them apart, and only a layer's
    carries over to others. lengths: draft lengths whose verification is fitted; None: all.
    """
    check_timed(lengths or (), times.draft_lengths, times.path)
    seen = pass_observations(times, lengths)
    return checked(lambda: best_pass_fit(seen))


def best_pass_fit(seen: Observations) -> Fit:
    """Return the better fit of constant seconds a byte and of a curve over the bytes; a ValueError as in `fit`."""
    tokens, moved = seen.fitted.tokens, seen.fitted.bytes
    knots = sorted({*(k for k in KNOTS if tokens.min() <= k <= tokens.max()), float(tokens.max())})
    ends = (float(moved.min()), float(moved.max()))
    fits = [best_fit(seen, knots)]
    if ends[1] >= LEAST_RANGE * ends[0]:
        curved = best_fit(seen, knots, Form(mem_knots=ends))
        fits += [curved] * curved.knows(curved.form.mem_names)
    return min(fits, key=lambda f: f.bic)


def pass_profile(name: str, times: PassTimes, checked_fit: CheckedFit, lengths: Sequence[int] | None) -> Profile:
    """Return the profile of a device whose passes were fitted by a fit that passed; a layer's launches are its one."""
    assert checked_fit.fit is not None
    assert checked_fit.diagnosis is not None
    return Profile(
        name=name,
        device=times.device,
        status=MEASURED,
        passes={times.dtype: checked_fit.fit.cost},
        launches_per_layer=1.0,
        memory_bytes=times.memory_bytes,
        timed=ranges_of(times),
        notes=(fitted_note(times, lengths), *held_out_note(checked_fit.diagnosis)),
    )


def ranges_of(times: PassTimes) -> dict[str, TimedRange]:
    """Return what passes were timed over."""
    points = tuple(times.times)
    values = {
        "batch": [p.batch for p in points],
        "context": [p.context for p in points],
        "tokens": [p.batch * p.new_tokens for p in points],
        "weights": [shape.parameters for shape in times.shapes.values()],
    }
    return {name: TimedRange(least=min(v), most=max(v)) for name, v in values.items()}


def fitted_note(times: PassTimes, lengths: Sequence[int] | None) -> str:
    """Say what was fitted."""
    both = " and ".join(shape.name for shape in times.shapes.values())
    fitted = times.draft_lengths if lengths is None else sorted(lengths)
    left = unseen_setting(times)
    settings = ", ".join(f"{b} x {s}" for b, s in times.settings if (b, s) != left)
    what = f"Fitted to passes of {both} in {times.dtype} through transformers, batch x context {settings}"
    return f"{what}, K {', '.join(map(str, fitted))}; launch_s is a layer's, and no overhead a round is in it."


def held_out_note(diagnosis: Diagnosis) -> tuple[str, ...]:
    """Say how far passes that were not fitted are off."""
    if diagnosis.held_out_median is None:
        return ()
    return (f"{diagnosis.held_out_median:.1%} median error of {diagnosis.held_out_points} passes held out.",)
