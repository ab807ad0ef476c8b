"""`CLIPClassifier`: zero-shot labels of photos."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast, overload

import numpy as np

from curation_features.clip import label_embeddings
from curation_features.clip.label_embeddings import LabelEmbeddings
from curation_features.clip.labels import fallback_prediction, label_photos
from curation_features.clip.prompts import find_truncated_prompts
from curation_features.clip.vocabulary import load_vocabulary
from curation_features.concurrency import batched
from curation_features.devices.transfer import stacked
from curation_features.schema import LabelPrediction
from curation_features.settings import Settings, load_settings
from curation_features.versions import text_version
from curation_features.weights import LazyModel, Loading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.clip.engine import ClipEngine
    from curation_features.photos.inputs import ImageLike

logger = logging.getLogger(__name__)

IMAGES_AT_ONCE = 32


class ClassifiedLabel(TypedDict):
    """One label of a photo, with its softmax probability and its cosine limited to [0, 1]."""

    label: str
    confidence: float
    cosine_score: float


class CLIPClassifier:
    """Labels photos with a vocabulary. Thread-safe; the model loads once, on first use.

        classifier = CLIPClassifier()
        classifier.classify("data/input/beach.jpg")
        # [{"label": "beach", "confidence": 0.91, "cosine_score": 0.27}, ...]    five, most probable first
        classifier.classify_many(["a.jpg", "b.jpg"])    # a list of such lists
        CLIPClassifier(labels=["bride", "groom", "rings", "cake", "dance floor"])    # user-supplied labels

    Confidence is the softmax over all labels of cosine x scale; the scale is learned, unless settings give a
    temperature. `cosine_score` is the cosine limited to [0, 1]. Label embeddings are stored in `label_embeddings.pt`,
    those of user-supplied labels in a file next to it. They are recomputed when labels, templates or model change.

    Args:
        settings: by default those of the current folder and environment.
        labels: by default the project's; distinct, at least five.
        templates: by default the project's; distinct, each with one `{}` for the label.
        engine: user-supplied model (see `LazyModel.ready`); by default the one that the settings name.
        label_file: file of the label embeddings; by default in the settings' cache.
        building: context manager entered while label embeddings are computed; used to show progress.

    Raises:
        SettingsError: labels or templates are unusable; checked before any model loads.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        labels: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        engine: LazyModel[ClipEngine] | None = None,
        label_file: Path | None = None,
        building: Loading = nullcontext,
    ) -> None:
        self.settings = settings or load_settings()
        self.vocabulary = load_vocabulary(self.settings, labels, templates)
        logger.info("Loaded %d labels and %d templates", len(self.vocabulary.labels), len(self.vocabulary.templates))
        is_own = labels is not None or templates is not None
        name = label_embeddings.file_name(self.vocabulary) if is_own else label_embeddings.FILE_NAME
        self.label_file = label_file or self.settings.cache_path / name
        self._building = building
        self._engine = engine or _clip_model(self.settings)
        self._lock = threading.Lock()
        self._label_embeddings: LabelEmbeddings | None = None

    @property
    def label_version(self) -> str:
        """Version of the label embeddings; loads no model. Raises `WeightsError` without weights."""
        texts = text_version(self.settings, self._engine.identity)
        return label_embeddings.label_version(texts, self.vocabulary)

    def label_embeddings(self) -> LabelEmbeddings:
        """Return the label embeddings: read from their file if it is up to date, otherwise computed and stored."""
        with self._lock:
            if self._label_embeddings is None:
                self._label_embeddings = self._read_or_build()
            return self._label_embeddings

    @overload
    def classify(self, image: ImageLike) -> list[ClassifiedLabel]: ...  # type: ignore[overload-overlap]  # str is a Sequence[str]

    @overload
    def classify(self, image: Sequence[ImageLike]) -> list[list[ClassifiedLabel]]: ...

    def classify(self, image: ImageLike | Sequence[ImageLike]) -> list[ClassifiedLabel] | list[list[ClassifiedLabel]]:
        """Return the five most probable labels of an image; for a list the same as `classify_many`.

        An image whose embedding is not finite has the fallback labels, at confidence 0 and cosine 0, with a warning.

        Args:
            image: upright RGB array or torch tensor (H, W, 3) of uint8, PIL image or path; relative paths start at the
                project's root.

        Raises:
            PhotoError: a path is not a readable photo.
            TypeError: an image of another type, shape or dtype.
            WeightsError: the model cannot be used.
        """
        from curation_features.photos.inputs import is_image

        if is_image(image):
            return self.classify_many([image])[0]
        return self.classify_many(image)

    def classify_many(self, images: Iterable[ImageLike]) -> list[list[ClassifiedLabel]]:
        """Return the labels of each image; see `classify`."""
        from curation_features.photos.inputs import read_pixels

        labels: list[list[ClassifiedLabel]] = []
        for group in batched(images, IMAGES_AT_ONCE):
            for prediction in self.label(self.embed([read_pixels(image, self.settings) for image in group])):
                if prediction.error:
                    logger.warning("Fallback labels for an image: %s", prediction.error.message)
                    prediction = fallback_prediction(
                        self.vocabulary.labels, prediction.error, self.settings.fallback_labels
                    )
                labels.append([cast("ClassifiedLabel", label._asdict()) for label in prediction.labels])
        return labels

    def embed(self, rgbs: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed upright RGB images (H, W, 3): (N, D), unit norm."""
        engine = self._engine.get()
        embeddings = [
            engine.encode_images(stacked([engine.preprocess(rgb) for rgb in group]))
            for group in batched(rgbs, self.settings.batch_size or IMAGES_AT_ONCE)
        ]
        return np.concatenate(embeddings) if embeddings else np.empty((0, engine.dimension), np.float32)

    def label(self, embeddings: NDArray[np.float32]) -> list[LabelPrediction]:
        """Label photos by their embeddings (N, D); an error for each embedding that is not finite."""
        labels = self.label_embeddings()
        scale = self.settings.temperature or labels.logit_scale
        return label_photos(embeddings, labels.vectors, self.vocabulary.labels, scale)

    def _read_or_build(self) -> LabelEmbeddings:
        version, count = self.label_version, len(self.vocabulary.labels)
        stored = label_embeddings.read(self.label_file, version)
        if stored is not None:
            logger.info("Loaded cached embeddings for %d labels", count)
            return stored
        engine = self._engine.get()
        for warning in find_truncated_prompts(engine, self.vocabulary).warnings(self.vocabulary):
            logger.warning("%s", warning)
        with self._building():
            built = LabelEmbeddings(label_embeddings.embed_labels(engine, self.vocabulary), engine.logit_scale, version)
        label_embeddings.write(self.label_file, built, self.vocabulary)
        logger.info("Built and cached embeddings for %d labels", count)
        return built


def _clip_model(settings: Settings) -> LazyModel[ClipEngine]:
    from curation_features.clip.engine import clip_model

    return clip_model(settings)
