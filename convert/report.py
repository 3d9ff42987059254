"""What a build reports: `report.json`, and the same in words and tables as `report.md`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from convert.gate import ACCURACY_TOLERANCE, FAR, TAR_TOLERANCE, PairFigures
from convert.parity import Latencies, Parity
from kiosk import __version__
from kiosk.bundle import Manifest


def report_data(
    parities: dict[str, Parity],
    latencies: Latencies,
    figures: dict[str, PairFigures],
    *,
    split: str,
    pairs: str,
    built_with: dict[str, str],
) -> dict[str, Any]:
    """The JSON report of all variants built together, float32 among them; ``latency_ms`` are this build machine's.

    ``parities`` and ``figures`` by variant, ``latencies`` by threads and variant; ``split`` and ``pairs`` say what they
    were measured on; ``built_with`` names the converters' versions. A threshold's shift is the variant's minus
    float32's.
    """
    float32 = figures["float32"]
    return {
        "built_with": {"kiosk": __version__, **built_with},
        "crops": split,
        "parity": {
            variant: {
                **asdict(parity),
                "latency_ms_1_thread": latencies[1][variant],
                "latency_ms_2_threads": latencies[2][variant],
            }
            for variant, parity in parities.items()
        },
        "gate": {
            "passed": True,
            "pairs": pairs,
            "far": FAR,
            "tolerance": {"accuracy": ACCURACY_TOLERANCE, "tar": TAR_TOLERANCE},
            "figures": {
                variant: {
                    **asdict(row),
                    "threshold_shift": round(row.threshold - float32.threshold, 6),
                    "far_threshold_shift": round(row.far_threshold - float32.far_threshold, 6),
                }
                for variant, row in figures.items()
            },
        },
    }


def report_markdown(manifest: Manifest, data: dict[str, Any]) -> str:
    source = manifest.source
    lines = [
        f"# {manifest.name}",
        "",
        f"- Weights: `{source.file}`, {source.origin}. Licence: {source.licence}.",
        f"- SHA-256 of the weights: `{source.sha256}`",
        f"- SHA-256 of the model: `{manifest.tflite_sha256}`",
        f"- Input: {manifest.input_size_px}×{manifest.input_size_px}×3 RGB",
        f"- Preprocessing `{manifest.preprocessing}`, alignment `{manifest.alignment}`",
        f"- Output: {manifest.embedding_dim} numbers, not normalised (the runtime normalises to length 1)",
        "- Built with " + ", ".join(f"{tool} {version}" for tool, version in data["built_with"].items()),
        "- Batch normalisation is folded into the convolutions",
        "",
        "## Quantization gate: passed",
        "",
        *_gate_lines(data["gate"]),
        "",
        "## Drift, size and time",
        "",
        f"Embeddings through the kiosk's own embedder against Keras' and float32's, cosine. {data['crops']}.",
        "",
        "| variant | Keras: mean | p1 | min | floor | float32: mean | p1 | min | ms, 1 thread | 2 threads | MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_parity_row(variant, row) for variant, row in data["parity"].items()),
        "",
        "Times are medians on the machine of the build, the variants taking turns, preprocessing included.",
        "",
        "## Accuracy",
        "",
        *_accuracy_lines(manifest),
    ]
    return "\n".join(lines) + "\n"


def _gate_lines(gate: dict[str, Any]) -> list[str]:
    tolerance, undetected = gate["tolerance"], gate["figures"]["float32"]["undetected"]
    at_far = f"at FAR {gate['far']:g}"
    return [
        f"Measured on {gate['pairs']}; {undetected} of them with a face not found, counted as errors.",
        f"Tolerated below float32: {tolerance['accuracy']:g} of accuracy, {tolerance['tar']:g} of TAR {at_far}.",
        "",
        f"| variant | accuracy | EER | TAR {at_far} | best threshold (shift) | threshold {at_far} (shift) |",
        "|---|---|---|---|---|---|",
        *(_gate_row(variant, row) for variant, row in gate["figures"].items()),
    ]


def _gate_row(variant: str, row: dict[str, Any]) -> str:
    return (
        f"| {variant} | {row['accuracy']:.4f} | {row['eer']:.2%} | {row['tar']:.4f} "
        f"| {row['threshold']:.3f} ({row['threshold_shift']:+.3f}) "
        f"| {row['far_threshold']:.3f} ({row['far_threshold_shift']:+.3f}) |"
    )


def _parity_row(variant: str, row: dict[str, Any]) -> str:
    return (
        f"| {variant} | {row['cosine_mean']:.5f} | {row['cosine_p1']:.5f} | {row['cosine_min']:.5f} | {row['floor']} "
        f"| {row['float32_mean']:.5f} | {row['float32_p1']:.5f} | {row['float32_min']:.5f} "
        f"| {row['latency_ms_1_thread']:.1f} | {row['latency_ms_2_threads']:.1f} | {row['size_bytes'] / 1e6:.2f} |"
    )


def _accuracy_lines(manifest: Manifest) -> list[str]:
    lines = []
    if manifest.accuracy:
        accuracy = manifest.accuracy
        lines.append(
            f"{accuracy.protocol}: {accuracy.value:.4f} of {accuracy.pairs} pairs right at score "
            f"{accuracy.threshold:.3f}; {accuracy.undetected} pairs with a face not found, counted as errors."
        )
    if manifest.thresholds:
        points = ", ".join(f"{point.fmr:g}: {point.score:.3f}" for point in manifest.thresholds)
        lines += ["", f"Score at a false match rate of {points}.", f"Measured on: {manifest.thresholds_measured_on}."]
    return lines or ["Not measured for these weights: use `kiosk-convert evaluate`."]
