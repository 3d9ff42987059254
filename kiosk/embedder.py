"""The embedder: an aligned face in, an L2-normalised embedding out, by a verified model bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiosk.align import align_face
from kiosk.biometrics import Embedding, Face, Image, ModelId
from kiosk.bundle import Bundle
from kiosk.errors import ModelError
from kiosk.gallery import fuse
from kiosk.preprocessing import Tensor, preprocess
from kiosk.tflite import Runtime, make_interpreter


class TfliteEmbedder:
    """Runs a bundle's network. Not safe for several threads at once: one interpreter, one set of tensors.

    ``alignment`` replaces the bundle's own crop geometry (the notebook's Haar path); embeddings made that way get a
    model id of their own, so that they are never compared with the bundle's usual ones.

    Raises:
        ModelError: the model does not have the shapes its manifest states.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int = 2, runtime: Runtime = "auto", alignment: str | None = None
    ) -> None:
        manifest = bundle.manifest
        self.model_id = embedding_model_id(bundle, alignment)
        self.size_px = manifest.input_size_px
        self.alignment: str = alignment or manifest.alignment
        self._preprocessing = manifest.preprocessing
        self._interpreter = make_interpreter(bundle.model_path, threads=threads, runtime=runtime)
        self._input, self._output = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        _check_tensor(bundle, "input", self._input, (1, self.size_px, self.size_px, 3), manifest.input_dtype)
        _check_tensor(bundle, "output", self._output, (1, manifest.embedding_dim), None)

    def warm_up(self) -> None:
        """One inference, on an even picture: what fails at the first one fails now."""
        self.embed_crop(np.full((self.size_px, self.size_px, 3), 128, np.uint8))

    def crop(self, image: Image, face: Face) -> Image:
        """The aligned face as this model wants it, (size_px, size_px, 3) BGR."""
        return align_face(image, face, self.alignment, self.size_px)

    def embed(self, image: Image, face: Face) -> Embedding:
        """Align the face of a photo; the mean of the crop's embedding and its mirror image's, L2-normalised.

        Two inferences: for photos, where accuracy counts more than milliseconds (docs/recognition.md).
        """
        crop = self.crop(image, face)
        return fuse([self.embed_crop(crop), self.embed_crop(_mirror(crop))])

    def embed_frame(self, image: Image, face: Face, *, mirrored: bool) -> Embedding:
        """Align the face of a camera frame and embed it, or its mirror image, once; shape (embedding_dim,)."""
        crop = self.crop(image, face)
        return self.embed_crop(_mirror(crop) if mirrored else crop)

    def embed_crop(self, crop: Image) -> Embedding:
        """Embed an aligned crop (size_px, size_px, 3) BGR.

        Raises:
            ModelError: the network returned something that is no vector (all zero or not finite).
        """
        self._interpreter.set_tensor(
            self._input["index"], _quantize(preprocess(crop, self._preprocessing), self._input)
        )
        self._interpreter.invoke()
        raw = _dequantize(self._interpreter.get_tensor(self._output["index"])[0], self._output)
        norm = float(np.linalg.norm(raw))
        if not np.isfinite(norm) or norm == 0:
            raise ModelError(f"{self.model_id}: the model returned no usable embedding; build or install it again")
        embedding: Embedding = raw / np.float32(norm)
        return embedding


def _mirror(crop: Image) -> Image:
    return np.ascontiguousarray(crop[:, ::-1])


def embedding_model_id(bundle: Bundle, alignment: str | None) -> ModelId:
    """The model id of embeddings made by a bundle, with another crop geometry than its own where one is given."""
    return ModelId(f"{bundle.model_id}+{alignment.split('-')[0]}") if alignment else bundle.model_id


def _quantize(tensor: Tensor, detail: dict[str, Any]) -> NDArray[Any]:
    """Add the batch axis and, for an integer input, apply the tensor's scale and zero point."""
    batch = tensor[np.newaxis]
    dtype = np.dtype(detail["dtype"])
    if dtype == np.float32:
        return batch
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(dtype)
    quantized: NDArray[Any] = np.clip(np.round(batch / scale) + zero_point, limits.min, limits.max).astype(dtype)
    return quantized


def _dequantize(values: NDArray[Any], detail: dict[str, Any]) -> Tensor:
    if values.dtype == np.float32:
        return values
    scale, zero_point = detail["quantization"]
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _check_tensor(
    bundle: Bundle, which: str, detail: dict[str, Any], shape: tuple[int, ...], dtype: str | None
) -> None:
    found = tuple(int(n) for n in detail["shape"])
    found_dtype = np.dtype(detail["dtype"]).name
    if found != shape or (dtype is not None and found_dtype != dtype):
        raise ModelError(
            f"{bundle.model_path}: {which} is {found_dtype} {found}, the manifest says {dtype or found_dtype} {shape}; "
            "build or install the bundle again"
        )
