"""What a build reports: `report.json`, and the same in words and tables as `report.md`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from convert.parity import Parity
from kiosk import __version__
from kiosk.bundle import Manifest


def report_data(parities: dict[str, Parity], split: str, tensorflow_version: str) -> dict[str, Any]:
    """The JSON report of all variants built together; ``latency_ms`` are this build machine's."""
    return {
        "built_with": {"kiosk": __version__, "tensorflow": tensorflow_version},
        "crops": split,
        "parity": {variant: asdict(parity) for variant, parity in parities.items()},
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
        f"- Built with kiosk {data['built_with']['kiosk']}, TensorFlow {data['built_with']['tensorflow']}",
        "- Batch normalisation is folded into the convolutions",
        "",
        "## Parity with the Keras network",
        "",
        f"Embeddings through the kiosk's own embedder against Keras, cosine. {data['crops']}.",
        "",
        "| variant | mean | 1st percentile | minimum | floor (mean) | ms, 1 thread | ms, 2 threads | MB |",
        "|---|---|---|---|---|---|---|---|",
        *(_parity_row(variant, row) for variant, row in data["parity"].items()),
        "",
        "Times are medians on the machine of the build, preprocessing included.",
        "",
        "## Accuracy",
        "",
        *_accuracy_lines(manifest),
    ]
    return "\n".join(lines) + "\n"


def _parity_row(variant: str, row: dict[str, Any]) -> str:
    return (
        f"| {variant} | {row['cosine_mean']:.5f} | {row['cosine_p1']:.5f} | {row['cosine_min']:.5f} | {row['floor']} "
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
