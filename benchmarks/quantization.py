"""FaceNet quantized in many ways, each measured against float32: drift, verification, threshold shift, size, latency.

    python benchmarks/quantization.py facenet512_weights.h5 lfw/images lfw/pairsDevTest.txt > quantization.json

Two quantizers: TensorFlow's converter and LiteRT's quantizer (once called ai-edge-quantizer). Calibration crops are the
kiosk's own (200 of its sample photos) or of LFW photos of people who are in no pair; the drift is measured on the
photos of the pairs. Networks and embeddings are kept in --work, so that a run can be taken up again.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.calibration import collect_crops
from convert.keras_h5 import load_equalized_facenet, load_facenet
from convert.metrics import accuracy_at, best_threshold, equal_error_rate, make_curve, threshold_at, true_accept_rate
from convert.pairs import Pair, read_pairs
from convert.photos import main_face
from convert.quantization import quantizer_version
from convert.quiet import Model, import_keras, import_tensorflow, output_logged
from convert.recipes import FACENET512
from convert.tflite import convert
from kiosk.align import align_face
from kiosk.biometrics import Image
from kiosk.bundle import Variant
from kiosk.detector import BlazeFaceDetector
from kiosk.photo import photos_below, read_photo
from kiosk.preprocessing import Tensor, preprocess
from kiosk.tflite import make_interpreter

FAR = 1e-3
SEED = 20180402
ROUNDS = 15
# Every way's drift is measured on these; the ways worth it are measured on all photos and pairs too (a minute each).
FEW = 96
SLOW = "q-static-16"
STEM = r"resnet_v1_1/Conv2d_"

Array = NDArray[np.float32]
Ranges = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """One way to quantize; ``few``: only the drift is measured, on a few faces."""

    name: str
    made: str
    make: Callable[[], bytes]
    few: bool = False


class Workshop:
    """What the ways share, each made once: networks in Keras, their float files, crops, activation ranges."""

    def __init__(self, weights: Path, images: Path, others: Sequence[str], work: Path) -> None:
        self._weights, self._images, self._others, self._work = weights, images, others, work

    @functools.cache  # noqa: B019 - lives as long as the process
    def model(self, *, equalized: bool) -> Model:
        load = load_equalized_facenet if equalized else load_facenet
        return load(self._weights, FACENET512.embedding_dim)

    @functools.cache  # noqa: B019
    def crops(self, which: str) -> list[Tensor]:
        """``samples``, or ``lfw-COUNT`` (half of them mirrored images of the others), or ``lfw-COUNT-plain``."""
        if which == "samples":
            found = collect_crops(None, alignment=FACENET512.alignment, size_px=FACENET512.input_size_px).calibration
        else:
            count = int(which.split("-")[1])
            photos = cut(self._images, self._others[: count if which.endswith("plain") else count // 2])
            found = photos if which.endswith("plain") else [*photos, *(np.fliplr(crop).copy() for crop in photos)]
        return [preprocess(crop, FACENET512.preprocessing) for crop in found]

    def converted(self, variant: Variant, crops: str = "samples", *, equalized: bool = False) -> bytes:
        model = self.model(equalized=equalized)
        return tensorflow_int8(model, self.crops(crops)) if variant == "int8" else convert(model, variant, [])

    def float_file(self, *, equalized: bool) -> Path:
        path = self._work / f"source{'-equalized' if equalized else ''}.tflite"
        if not path.exists():
            path.write_bytes(self.converted("float32", equalized=equalized))
        return path

    def quantized(self, recipe: list[Any], crops: str = "", method: str = "", *, equalized: bool = False) -> bytes:
        from litert_quantizer import quantizer

        ranges = self.ranges(crops, method or "min-max", equalized=equalized) if crops else None
        with output_logged():
            work = quantizer.Quantizer(str(self.float_file(equalized=equalized)), recipe)
            return bytes(work.quantize(ranges, enable_progress_report=False).quantized_model)

    @functools.cache  # noqa: B019
    def ranges(self, crops: str, method: str, *, equalized: bool) -> Ranges:
        """Least and greatest value of every tensor: over all crops, their moving average, or a percentile."""
        from litert_quantizer import calibrator, recipe, recipe_manager
        from litert_quantizer.utils import qsv_utils

        update = qsv_utils.moving_average_update if method == "moving average" else qsv_utils.min_max_update
        manager = recipe_manager.RecipeManager()
        manager.load_quantization_recipe(recipe.static_wi8_ai8())
        file = str(self.float_file(equalized=equalized))
        data = {"serving_default": [{"face": crop[np.newaxis]} for crop in self.crops(crops)]}
        with output_logged():
            worker = calibrator.Calibrator(file, num_threads=2, qsv_update_func=update)
            worker.calibrate(data, manager)
        found: Ranges = worker.get_model_qsvs()
        return found if "%" not in method else clipped(found, file, self.crops(crops), float(method.rstrip("%")))


def tensorflow_int8(model: Model, crops: Sequence[Tensor]) -> bytes:
    """As `kiosk-convert build` made int8 before it had LiteRT's quantizer."""
    tf, keras = import_tensorflow(), import_keras()

    def representative() -> Iterator[list[Array]]:
        for crop in crops:
            yield [crop[np.newaxis]]

    with output_logged():
        face = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="face")
        fixed = keras.Model(face, model(face, training=False), name="int8")
        converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        # tflite-runtime 2.14 refuses what the default makes of dense layers.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True  # noqa: SLF001
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.float32
        return bytes(converter.convert())


def clipped(ranges: Ranges, file: str, crops: Sequence[Tensor], percent: float) -> Ranges:
    """The ranges narrowed to what ``percent`` of each tensor's values lie in, averaged over the crops."""
    from ai_edge_litert.interpreter import Interpreter

    with output_logged():
        interpreter = Interpreter(model_path=file, num_threads=2, experimental_preserve_all_tensors=True)
        interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]["index"]
    details = [detail for detail in interpreter.get_tensor_details() if detail["name"] in ranges]
    sums: dict[str, NDArray[np.float64]] = {}
    # A sixth of the values of a sixth of the crops: the tails of 10 million numbers a crop need no more.
    for crop in crops[::6]:
        interpreter.set_tensor(place, crop[np.newaxis])
        interpreter.invoke()
        for detail in details:
            values = interpreter.get_tensor(detail["index"]).ravel()
            low, high = np.percentile(values[:: 6 if len(values) > 10_000 else 1], [100 - percent, percent])
            sums[detail["name"]] = sums.get(detail["name"], np.zeros(2)) + np.array([low, high])
    result = dict(ranges)
    for name, (low, high) in sums.items():
        old, number = ranges[name], len(crops[::6])
        shape = np.shape(old["min"])
        result[name] = {**old, "min": np.full(shape, low / number), "max": np.full(shape, high / number)}
    return result


def ways(shop: Workshop) -> list[Way]:
    from litert_quantizer import recipe
    from litert_quantizer.qtyping import TFLOperationName as Op
    from litert_quantizer.quantizer import AlgorithmName
    from litert_quantizer.recipe_manager import RecipeManager

    def static(*floats: tuple[str, Op], octav: bool = False) -> list[Any]:
        manager = RecipeManager()
        algorithm = AlgorithmName.OCTAV if octav else AlgorithmName.MIN_MAX_UNIFORM_QUANT
        manager.add_static_config(".*", Op.ALL_SUPPORTED, 8, 8, algorithm_key=algorithm)
        for regex, operation in floats:
            manager.add_quantization_config(regex, operation, None, AlgorithmName.NO_QUANTIZE)
        return list(manager.get_quantization_recipe())

    def converter(name: str, variant: Variant, crops: str = "samples", **how: bool) -> Way:
        equalized = how.get("equalized", False)
        made = f"converter, {variant}" + (f", {crops}" if variant == "int8" else "") + equal(equalized)
        make = functools.partial(shop.converted, variant, crops, equalized=equalized)
        return Way(name, made, make, how.get("few", False))

    def litert(name: str, what: str, rules: list[Any], crops: str = "", method: str = "", **how: bool) -> Way:
        equalized = how.get("equalized", False)
        made = ", ".join(filter(None, [f"litert-quantizer, {what}", crops, method])) + equal(equalized)
        make = functools.partial(shop.quantized, rules, crops, method, equalized=equalized)
        return Way(name, made, make, how.get("few", False))

    lfw, first = "lfw-200", [(STEM + "(1a|2a|2b)", Op.CONV_2D), ("MaxPool_3a", Op.MAX_POOL_2D)]
    eight = "static_wi8_ai8"
    return [
        converter("float32", "float32"),
        converter("int8", "int8"),
        converter("int8-equalized", "int8", equalized=True),
        litert("q-static-lfw", eight, static(), lfw, "min-max"),
        litert("q-static", eight, static(), "samples", "min-max"),
        litert("q-static-equalized", eight, static(), "samples", "min-max", equalized=True),
        litert("q-static-equalized-octav", f"{eight}, OCTAV weights", static(octav=True), "samples", equalized=True),
        litert("q-static-equalized-lfw-octav", f"{eight}, OCTAV weights", static(octav=True), lfw, equalized=True),
        litert(
            "q-equalized-first-three-float",
            f"{eight}, first three convolutions float",
            static(*first),
            lfw,
            equalized=True,
            few=True,
        ),
        litert("q-first-three-float", f"{eight}, first three convolutions float", static(*first), lfw, "min-max"),
        converter("int8-lfw-200", "int8", lfw),
        converter("dynamic", "dynamic"),
        converter("dynamic-equalized", "dynamic", equalized=True),
        converter("int8-equalized-lfw-200", "int8", lfw, equalized=True),
        litert("q-static-lfw-octav", f"{eight}, OCTAV weights", static(octav=True), lfw, "min-max"),
        litert("q-static-lfw-average", eight, static(), lfw, "moving average", few=True),
        litert("q-static-lfw-99.99%", eight, static(), lfw, "99.99%", few=True),
        litert("q-first-conv-float", f"{eight}, 1st conv. float", static((STEM + "1a", Op.CONV_2D)), lfw, few=True),
        litert("q-second-conv-float", f"{eight}, 2nd conv. float", static((STEM + "2a", Op.CONV_2D)), lfw, few=True),
        litert("q-third-conv-float", f"{eight}, 3rd conv. float", static((STEM + "2b", Op.CONV_2D)), lfw, few=True),
        litert("q-bottleneck-float", f"{eight}, bottleneck float", static((".*", Op.FULLY_CONNECTED)), lfw, few=True),
        litert("q-adds-float", f"{eight}, residual additions float", static((".*", Op.ADD)), lfw, few=True),
        litert("q-dynamic", "dynamic_wi8_afp32", recipe.dynamic_wi8_afp32(), few=True),
        litert("q-weights-only", "weight_only_wi8_afp32", recipe.weight_only_wi8_afp32(), few=True),
        converter("int8-lfw-500", "int8", "lfw-500"),
        converter("int8-lfw-50", "int8", "lfw-50"),
        converter("int8-lfw-100", "int8", "lfw-100", few=True),
        converter("int8-lfw-200-plain", "int8", "lfw-200-plain", few=True),
        converter("float16", "float16", few=True),
        # The runtimes have no fast kernels for 16-bit activations: more than a second a face.
        litert(SLOW, "static_wi8_ai16", recipe.static_wi8_ai16(), lfw, few=True),
    ]


def equal(equalized: bool) -> str:
    return ", equalized" if equalized else ""


def cut(images: Path, paths: Sequence[str]) -> list[Image]:
    detector = BlazeFaceDetector(threads=1)
    crops = []
    for path in paths:
        image = read_photo(images / path)
        face = main_face(image, detector)
        if face is None:
            sys.exit(f"{path}: no face found")
        crops.append(align_face(image, face, FACENET512.alignment, FACENET512.input_size_px))
    return crops


class Runner:
    """A network of any input and output type; the quantizers of the two makers do not agree on it."""

    def __init__(self, path: Path, threads: int = 2) -> None:
        self._interpreter = make_interpreter(path, threads=threads)
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def embed(self, tensor: Tensor) -> Array:
        batch: NDArray[Any] = tensor[np.newaxis]
        if self._input["dtype"] != np.float32:
            scale, zero = self._input["quantization"]
            limits = np.iinfo(self._input["dtype"])
            batch = np.clip(np.rint(batch / scale) + zero, limits.min, limits.max).astype(limits.dtype)
        self._interpreter.set_tensor(self._input["index"], batch)
        self._interpreter.invoke()
        raw: Array = self._interpreter.get_tensor(self._output["index"])[0]
        if raw.dtype != np.float32:
            scale, zero = self._output["quantization"]
            raw = (raw.astype(np.float32) - np.float32(zero)) * np.float32(scale)
        unit: Array = raw / np.linalg.norm(raw)
        return unit


def verification(embeddings: Array, paths: Sequence[str], pairs: Sequence[Pair]) -> dict[str, float | None]:
    place = {path: row for row, path in enumerate(paths)}
    first, second = (
        [place[path] for path in side] for side in zip(*((p.path_a, p.path_b) for p in pairs), strict=True)
    )
    scores = np.einsum("nd,nd->n", embeddings[first], embeddings[second], dtype=np.float64)
    same = np.array([pair.same for pair in pairs])
    curve = make_curve(scores, same)
    best = best_threshold(curve)
    return {
        "accuracy": accuracy_at(scores, same, best),
        "eer": equal_error_rate(curve),
        "tar_at_far_1e-3": true_accept_rate(curve, FAR),
        "best_threshold": best,
        "threshold_at_far_1e-3": threshold_at(curve, FAR),
    }


def measure(
    way: Way, work: Path, tensors: Sequence[Tensor], paths: Sequence[str], pairs: Sequence[Pair]
) -> dict[str, Any]:
    model, kept = work / f"{way.name}.tflite", work / f"{way.name}.npy"
    if not model.exists():
        model.write_bytes(way.make())
    if not kept.exists():
        runner = Runner(model)
        np.save(kept, np.stack([runner.embed(tensor) for tensor in tensors[: FEW if way.few else None]]))
    embeddings = np.load(kept)
    float32 = np.load(work / "float32.npy")[: len(embeddings)]
    cosines = np.einsum("nd,nd->n", embeddings, float32, dtype=np.float64)
    row = {
        "name": way.name,
        "made": way.made,
        "size_mb": model.stat().st_size / 1e6,
        "cosine_mean_of_few": float(cosines[:FEW].mean()),
    }
    if way.few:
        return row
    drift = {
        "cosine_mean": float(cosines.mean()),
        "cosine_p1": float(np.percentile(cosines, 1)),
        "cosine_min": float(cosines.min()),
    }
    return {**row, **drift, **verification(embeddings, paths, pairs)}


def latencies(models: dict[str, Path], tensor: Tensor, threads: int) -> dict[str, float]:
    """Median milliseconds of one face, the networks taking turns: what else the machine does meets them all."""
    runners = {name: Runner(path, threads) for name, path in models.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(ROUNDS + 1):
        for name, runner in runners.items():
            start = time.perf_counter()
            runner.embed(tensor)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--work", type=Path, default=Path("quantization"))
    parser.add_argument("--only", help="comma-separated names")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    arguments.work.mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(arguments.pairs)
    paths = sorted({path for pair in pairs for path in (pair.path_a, pair.path_b)})
    tested = {path.split("/")[0] for path in paths}
    every = [str(path.relative_to(arguments.images)) for path in photos_below(arguments.images)]
    others = [path for path in every if path.split("/")[0] not in tested]
    others = [others[index] for index in np.random.default_rng(SEED).permutation(len(others))]
    tensors = [preprocess(crop, FACENET512.preprocessing) for crop in cut(arguments.images, paths)]
    shop = Workshop(arguments.weights, arguments.images, others, arguments.work)
    chosen = [way for way in ways(shop) if not arguments.only or way.name in ("float32", *arguments.only.split(","))]
    rows = {}
    for way in chosen:
        rows[way.name] = measure(way, arguments.work, tensors, paths, pairs)
        print(json.dumps(rows[way.name]), file=sys.stderr, flush=True)
    reference = rows["float32"]
    models = {way.name: arguments.work / f"{way.name}.tflite" for way in chosen if way.name != SLOW}
    for threads in (1, 2):
        for name, value in latencies(models, tensors[0], threads).items():
            rows[name][f"latency_ms_{threads}_threads"] = value
    for row in rows.values():
        for figure in ("best_threshold", "threshold_at_far_1e-3"):
            if figure in row:
                row[f"{figure}_shift"] = row[figure] - reference[figure]
    versions = {"tensorflow": import_tensorflow().__version__, "litert-quantizer": quantizer_version()}
    rounded = [{k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows.values()]
    sizes = {"pairs": len(pairs), "photos": len(paths), "few": FEW}
    json.dump({"built_with": versions, **sizes, "rows": rounded}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
