"""`CLIPClassifier`: labels for photos, by zero-shot classification."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.clip import label_embeddings
from curation_features.clip.engine import ClipEngine, clip_model
from curation_features.clip.label_embeddings import LabelEmbeddings
from curation_features.clip.labels import fallback_prediction, label_photos
from curation_features.clip.prompts import unread
from curation_features.clip.vocabulary import vocabulary_of
from curation_features.photos.inputs import is_image, pixels
from curation_features.schema import LabelPrediction
from curation_features.settings import Settings, load_settings
from curation_features.versions import text_version
from curation_features.weights import LazyModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.photos.inputs import ImageLike

logger = logging.getLogger(__name__)

IMAGES_AT_ONCE = 32


class CLIPClassifier:
    """Labels photos with the words of a vocabulary. Safe to call from several threads; the model loads once, on need.

        classifier = CLIPClassifier()
        classifier.classify("data/input/beach.jpg")
        # [{"label": "beach", "confidence": 0.91, "cosine_score": 0.27}, ...]    five, most probable first
        CLIPClassifier(labels=["bride", "groom", "rings", "cake", "dance floor"])    with labels of one's own

    Confidence is the softmax over all labels of cosine x scale, where the scale is the model's learned one unless
    settings give a temperature; `cosine_score` is the cosine limited to [0, 1]. Label vectors are kept in
    `label_embeddings.pt`, for labels of one's own in a file beside it, and built anew when labels, templates or model
    change.

    Args:
        settings: by default those of the current folder and environment.
        labels: in place of those of the project; distinct, at least five.
        templates: in place of those of the project; distinct, each with one `{}`, where the label goes.
        engine: a model of one's own (see `LazyModel.ready`) in place of the one that the settings name.
        label_file: where label vectors are kept; by default in the settings' cache.

    Raises:
        SettingsError: labels or templates that cannot be used. Nothing is loaded before they are checked.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        labels: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        engine: LazyModel[ClipEngine] | None = None,
        label_file: Path | None = None,
    ) -> None:
        self.settings = settings or load_settings()
        self.vocabulary = vocabulary_of(self.settings, labels, templates)
        logger.info("Loaded %d labels and %d templates", len(self.vocabulary.labels), len(self.vocabulary.templates))
        is_own = labels is not None or templates is not None
        name = label_embeddings.file_name(self.vocabulary) if is_own else label_embeddings.FILE_NAME
        self.label_file = label_file or self.settings.cache_path / name
        self.building: Callable[[], AbstractContextManager[object]] = nullcontext  # entered while vectors are built
        self._engine = engine or clip_model(self.settings)
        self._lock = threading.Lock()
        self._label_embeddings: LabelEmbeddings | None = None

    @property
    def label_version(self) -> str:
        """Names this vocabulary's vectors of this model; loads no model. Raises `WeightsError` where there is none."""
        texts = text_version(self.settings, self._engine.identity)
        return label_embeddings.label_version(texts, self.vocabulary)

    def label_embeddings(self) -> LabelEmbeddings:
        """The labels' vectors: from `label_embeddings.pt` where it is up to date, else built and kept there."""
        with self._lock:
            if self._label_embeddings is None:
                self._label_embeddings = self._read_or_build()
            return self._label_embeddings

    def classify(self, images: ImageLike | Sequence[ImageLike]) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """The five most probable labels of an image, or of each image of a list.

        Args:
            images: upright RGB arrays or torch tensors (H, W, 3) of uint8, PIL images or paths; relative paths start
                at the project's root.

        Returns:
            For one image a list of `{"label", "confidence", "cosine_score"}`, most probable first; for a list of images
            a list of such lists.

        Raises:
            PhotoError: a path that cannot be read as a photo.
            TypeError: an image of another type, shape or dtype.
            WeightsError: there is no usable model.
        """
        if is_image(images):
            return self._classify([images])[0]
        return self._classify(images)

    def embed(self, rgbs: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Vectors (N, D), unit norm, of upright RGB images (H, W, 3)."""
        engine = self._engine.get()
        step = self.settings.batch_size or IMAGES_AT_ONCE
        vectors = [
            engine.encode_images(np.stack([engine.preprocess(rgb) for rgb in rgbs[start : start + step]]))
            for start in range(0, len(rgbs), step)
        ]
        return np.concatenate(vectors) if vectors else np.empty((0, engine.dimension), np.float32)

    def label(self, embeddings: NDArray[np.float32]) -> list[LabelPrediction]:
        """Labels of photos by their vectors (N, D); an error in place of labels where a vector is not finite."""
        known = self.label_embeddings()
        scale = self.settings.temperature or known.logit_scale
        return label_photos(embeddings, known.vectors, self.vocabulary.labels, scale)

    def _classify(self, images: Sequence[ImageLike]) -> list[list[dict[str, Any]]]:
        found: list[list[dict[str, Any]]] = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            rgbs = [pixels(image, self.settings) for image in images[start : start + IMAGES_AT_ONCE]]
            for prediction in self.label(self.embed(rgbs)):
                if prediction.error:
                    logger.warning("Fallback labels for an image: %s", prediction.error.message)
                    prediction = fallback_prediction(
                        self.vocabulary.labels, prediction.error, self.settings.fallback_labels
                    )
                found.append([label._asdict() for label in prediction.labels])
        return found

    def _read_or_build(self) -> LabelEmbeddings:
        version, count = self.label_version, len(self.vocabulary.labels)
        known = label_embeddings.read(self.label_file, version)
        if known is not None and len(known.vectors) == count:
            logger.info("Loaded cached embeddings for %d labels", count)
            return known
        engine = self._engine.get()
        for warning in unread(engine, self.vocabulary).warnings(self.vocabulary):
            logger.warning("%s", warning)
        with self.building():
            built = LabelEmbeddings(label_embeddings.embed_labels(engine, self.vocabulary), engine.logit_scale, version)
        label_embeddings.write(self.label_file, built, self.vocabulary)
        logger.info("Built and cached embeddings for %d labels", count)
        return built
