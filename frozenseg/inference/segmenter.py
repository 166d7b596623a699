"""Pictures and a vocabulary in, predictions out: the library's front door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from frozenseg.classify import class_logits, ensemble_class_scores
from frozenseg.config import from_mapping
from frozenseg.data import collate, decode_image, resize_for_test
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.openseg import sam_class_scores
from frozenseg.inference.options import InferenceOptions
from frozenseg.inference.prediction import Prediction, SamEvidence
from frozenseg.inference.sam_masks import PUBLISHED, GridSettings, SamMaskGenerator
from frozenseg.model import FrozenSeg
from frozenseg.types import Batch, EncoderFeatures, ImageSample, SamMasks, TextEmbeddings, Vocabulary
from frozenseg.vocabulary import load_vocabulary

ImageInput = str | Path | bytes | Image.Image | NDArray[np.uint8] | Tensor | ImageSample


class Segmenter:
    """A model that is ready to be asked.

    Args:
        model: in eval mode, on its device.
        options: defaults for every call; the model folder's own when None.
        grid: how SAM's masks are made where the options need them; the model folder's own when None.

    Raises:
        UserInputError: an option or grid setting in the model folder that is none.
    """

    def __init__(
        self, model: FrozenSeg, options: InferenceOptions | None = None, grid: GridSettings | None = None
    ) -> None:
        self.model = model
        where = f"the inference options of {model.spec.name!r}"
        self.options = options or from_mapping(model.spec.inference, InferenceOptions, where=where)
        settings = {**asdict(PUBLISHED), **model.spec.sam_grid}
        self.grid = grid or from_mapping(settings, GridSettings, where=f"the SAM grid of {model.spec.name!r}")

    @property
    def notice(self) -> str:
        """To be shown with every result; empty for a trained model."""
        return self.model.spec.notice

    def __call__(
        self, image: ImageInput, vocabulary: str | Path | Vocabulary, options: InferenceOptions | None = None
    ) -> Prediction:
        """One image. Arguments as in :meth:`predict_batch`."""
        return self.predict_batch([image], vocabulary, options)[0]

    def predict_batch(
        self,
        images: Sequence[ImageInput],
        vocabulary: str | Path | Vocabulary,
        options: InferenceOptions | None = None,
    ) -> list[Prediction]:
        """Several images in one forward pass.

        Args:
            images: paths, file bytes, PIL images, [h,w,3] uint8 RGB arrays or [3,h,w] uint8 RGB tensors.
            vocabulary: text such as `"cat; dog,puppy; sky(stuff)"`, a file, a published name, or a Vocabulary.
            options: instead of the segmenter's own.

        Raises:
            UserInputError: an image that isn't one, or a vocabulary that cannot be used.
        """
        options = options or self.options
        categories = _vocabulary(vocabulary)
        samples = [read_image(image, position) for position, image in enumerate(images)]
        resized = [resize_for_test(s, options.shortest_side, options.longest_side) for s in samples]
        batch = collate(resized)
        height, width = batch.images.shape[-2:]
        geometries = [
            ImageGeometry(
                padded_size=(int(height), int(width)),
                valid_size=(int(sample.image.shape[1]), int(sample.image.shape[2])),
                output_size=sample.original_size,
            )
            for sample in resized
        ]
        return self.predict_features(
            self.model.encode(batch),
            geometries,
            categories,
            self.separate_sam_masks(batch, geometries) if options.needs_sam_masks else (),
            options,
            [sample.image_id for sample in samples],
        )

    @torch.no_grad()
    def predict_features(
        self,
        features: EncoderFeatures,
        geometries: Sequence[ImageGeometry],
        vocabulary: str | Path | Vocabulary,
        sam_masks: Sequence[SamMasks] = (),
        options: InferenceOptions | None = None,
        image_ids: Sequence[str] = (),
    ) -> list[Prediction]:
        """The part after the encoders, for servers and pipelines that run those elsewhere.

        Args:
            features: of B images.
            geometries: one per image.
            vocabulary: as in :meth:`predict_batch`.
            sam_masks: one per image where the options need them; made from the features when absent, which takes a
                model whose masks come from the SAM of its features.
            options: instead of the segmenter's own.
            image_ids: one per image, or none.
        """
        options = options or self.options
        categories = _vocabulary(vocabulary)
        features = features.to(self.model.device)
        text = self.model.text(categories)
        seen = self.model.seen(categories)
        ids = list(image_ids) or [str(i) for i in range(features.batch_size)]
        evidence: list[SamEvidence] | None = None
        if options.needs_sam_masks:
            evidence = self._sam_evidence(features, geometries, sam_masks or self.sam_masks(features, geometries), text)
        if options.sam_only:
            assert evidence is not None
            scores = [sam_class_scores(e.clip_logits) for e in evidence]
            masks = [e.mask_logits for e in evidence]
            geometries = [e.geometry for e in evidence]
        else:
            output = self.model.decode(features, text)
            masks = list(output.mask_logits.float())
            scores = list(self._class_scores(features, output.mask_logits, output.class_logits, text, seen, options))
        return [
            Prediction(
                image_id=ids[i],
                vocabulary=categories,
                geometry=geometries[i],
                class_scores=scores[i],
                mask_logits=masks[i],
                seen=seen,
                options=options,
                sam=evidence[i] if evidence is not None else None,
                notice=self.notice,
            )
            for i in range(features.batch_size)
        ]

    def _class_scores(
        self,
        features: EncoderFeatures,
        mask_logits: Tensor,
        decoder_logits: Tensor,
        text: TextEmbeddings,
        seen: Tensor,
        options: InferenceOptions,
    ) -> Tensor:
        """[B,Q,K+1] log-probabilities: the decoder's classes and CLIP's, mixed (paper Eq. 3)."""
        clip = self.model.clip
        pooled = clip.pool_masks(features.clip_dense, mask_logits)
        clip_logits = class_logits(pooled.embeddings.float(), text, clip.logit_scale)
        non_empty = pooled.non_empty if clip.ensemble_needs_mask else None
        return ensemble_class_scores(decoder_logits, clip_logits, non_empty, seen, options.alpha, options.beta)

    def sam_masks(self, features: EncoderFeatures, geometries: Sequence[ImageGeometry]) -> list[SamMasks]:
        """SAM's masks of every image from its features: the image is encoded once.

        Raises:
            UserInputError: a model without SAM, or one whose masks come from another SAM than its features.
        """
        if self.model.sam is None or self.model.mask_sam is not None:
            lack = "has no SAM" if self.model.sam is None else "makes its masks with another SAM than its features"
            raise UserInputError(f"the options need SAM masks, but the model {self.model.spec.name!r} {lack}")
        generator = SamMaskGenerator(self.model.sam, self.grid)
        embeddings = features.sam.to(self.model.device).float()
        return [generator.from_embedding(e, g) for e, g in zip(embeddings, geometries, strict=True)]

    def separate_sam_masks(self, batch: Batch, geometries: Sequence[ImageGeometry]) -> list[SamMasks]:
        """Masks of every image of a batch by a SAM that is not the features' one; empty when there is none such."""
        if self.model.mask_sam is None:
            return []
        embeddings = self.model.mask_sam.encode_image(batch.images.to(self.model.device), batch.valid_sizes)
        generator = SamMaskGenerator(self.model.mask_sam, self.grid)
        return [generator.from_embedding(e.float(), g) for e, g in zip(embeddings, geometries, strict=True)]

    def _sam_evidence(
        self,
        features: EncoderFeatures,
        geometries: Sequence[ImageGeometry],
        sam_masks: Sequence[SamMasks],
        text: TextEmbeddings,
    ) -> list[SamEvidence]:
        """SAM's masks of every image with CLIP's view of each."""
        clip = self.model.clip
        # The ensemble's softmax has void in it: the decoder's learned row, at CLIP's scale.
        void = self.model.decoder.void_embedding.weight[0]
        result = []
        for i, (geometry, masks) in enumerate(zip(geometries, sam_masks, strict=True)):
            # They may have been made elsewhere.
            mask_logits = masks.logits.to(self.model.device).float()
            pooled = clip.pool_masks(features.clip_dense[i : i + 1], mask_logits[None])
            logits = class_logits(pooled.embeddings.float(), text, clip.logit_scale, void)[0]
            result.append(SamEvidence(mask_logits=mask_logits, clip_logits=logits, geometry=geometry))
        return result


def read_image(image: ImageInput, position: int = 0) -> ImageSample:
    """Anything that is a picture as an ImageSample.

    Raises:
        MissingPathError, UserInputError: no such file, or not a picture.
    """
    if isinstance(image, ImageSample):
        return image
    name = f"image-{position}"
    if isinstance(image, (str, Path)):
        path = Path(image)
        if not path.is_file():
            raise MissingPathError(f"image {path} does not exist")
        return decode_image(path.read_bytes(), path.stem, file_name=str(path))
    if isinstance(image, bytes):
        return decode_image(image, name)
    if isinstance(image, Image.Image):
        return _from_array(np.asarray(image.convert("RGB")), name)
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    if not isinstance(image, Tensor):
        raise UserInputError(f"{name}: expected a path, bytes, picture, array or tensor, found {type(image).__name__}")
    if image.ndim != 3 or 0 in image.shape:
        raise UserInputError(f"{name}: expected a tensor [3,h,w], found {tuple(image.shape)}")
    return ImageSample(image_id=name, image=image, original_size=(int(image.shape[1]), int(image.shape[2])))


def _from_array(pixels: NDArray[np.uint8], name: str) -> ImageSample:
    """[h,w,3] or [h,w] uint8."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise UserInputError(f"{name}: expected an array [h,w,3] uint8 RGB, found {pixels.shape} {pixels.dtype}")
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    return ImageSample(image_id=name, image=image, original_size=(pixels.shape[0], pixels.shape[1]))


def _vocabulary(source: str | Path | Vocabulary) -> Vocabulary:
    # Only a text that cannot be a file's name is remembered: files change.
    return _parsed(source) if isinstance(source, str) and ";" in source else load_vocabulary(source)


@lru_cache(maxsize=32)
def _parsed(text: str) -> Vocabulary:
    """Reading a text of a thousand names takes a while."""
    return load_vocabulary(text)
