"""Runs in an environment with lvis and cityscapesscripts; writes what they say of a folder of files as JSON.

python oracle_script.py lvis TRUTH RESULTS | cityscapes FOLDER
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import sys
import types

import numpy


def lvis(truth: str, results: str) -> dict[str, float]:
    # What the released package needs of others only for drawing, and an alias that numpy dropped.
    sys.modules["cv2"] = types.ModuleType("cv2")
    vars(numpy)["float"] = float
    from lvis import LVISEval

    evaluation = LVISEval(truth, results, "segm")
    evaluation.run()
    return {name: float(value) for name, value in evaluation.get_results().items()}


def cityscapes(folder: str) -> dict[str, float]:
    vars(numpy).setdefault("in1d", numpy.isin)
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as scripts

    # It cannot write the numbers that today's numpy gives it into a cache that nobody needs.
    scripts.writeDict2JSON = lambda *_: None
    args = scripts.args
    args.quiet, args.JSONOutput, args.predictionPath = True, False, f"{folder}/results"
    args.gtInstancesFile = f"{folder}/gt_instances.json"
    truth = sorted(glob.glob(f"{folder}/gtFine/val/*/*_gtFine_instanceIds.png"))
    predictions = [scripts.getPrediction(path, args) for path in truth]
    answer = scripts.evaluateImgLists(predictions, truth, args)["averages"]
    return {"ap": answer["allAp"], "ap50": answer["allAp50%"]} | {
        name: values["ap"] for name, values in answer["classes"].items()
    }


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        found = lvis(*sys.argv[2:]) if sys.argv[1] == "lvis" else cityscapes(sys.argv[2])
    print(json.dumps(found))
