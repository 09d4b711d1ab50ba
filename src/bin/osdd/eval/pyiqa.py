"""Scores images with pyiqa for `osdd eval`: a request a line on standard input, an answer a line on standard output.

Arguments: a device ("auto" lets pyiqa choose), then pyiqa's names of the metrics.
First answer: {"metrics": [{"name", "lower_better", "needs_reference"}]}, or {"kind", "error"}: "import"
and why, "unknown" and a metric's name, or the name of a metric that cannot be loaded and why.
Request: {"image": path, "reference": path or null}. Answer: {"values": [number or null], "errors": [text or null]}.
"""

import json
import os
import sys

# Packages print what they are doing; standard output is for answers alone.
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def answer(value):
    print(json.dumps(value), file=answers, flush=True)


def fail(kind, error):
    answer({"kind": kind, "error": error})
    sys.exit(0)


def told(error):
    return f"{type(error).__name__}: {error}"


def score(name, metric, request):
    """A number, or why there is none."""
    arguments = [request["image"]]
    if needs_reference(metric):
        if request["reference"] is None:
            return None, None
        arguments.append(request["reference"])
    try:
        value = float(metric(*arguments))
        return (value, None) if value - value == 0 else (None, "the result is not finite")
    except Exception as error:
        return None, told(error)


def needs_reference(metric):
    return getattr(metric, "metric_mode", "NR") == "FR"


def main(device, names):
    try:
        import pyiqa
    except Exception as error:
        fail("import", told(error))
    known = pyiqa.list_models()
    for name in names:
        if name not in known:
            fail("unknown", name)
    metrics = []
    for name in names:
        try:
            metrics.append(pyiqa.create_metric(name, device=None if device == "auto" else device))
        except BaseException as error:
            fail(name, told(error))
    answer(
        {
            "metrics": [
                {
                    "name": name,
                    "lower_better": bool(getattr(metric, "lower_better", False)),
                    "needs_reference": needs_reference(metric),
                }
                for name, metric in zip(names, metrics)
            ]
        }
    )
    for line in sys.stdin:
        request = json.loads(line)
        scores = [score(name, metric, request) for name, metric in zip(names, metrics)]
        answer({"values": [value for value, _ in scores], "errors": [error for _, error in scores]})


main(sys.argv[1], sys.argv[2:])
