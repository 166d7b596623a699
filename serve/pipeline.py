"""One image's way through the parts, with retries: a replica that dies takes no accepted request with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any, cast

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from frozenseg.errors import UserInputError
from frozenseg.types import Vocabulary
from serve.problems import RequestRefusedError
from serve.schema import SegmentOptions
from serve.travel import MaskedImage, OtherModelError, PreparedImage, SegmentedImage, check_image

ATTEMPTS = 4
RETRY_WAIT_S = 0.5


class SegmentPipeline:
    """Encoders, then SAM's masks where wanted, then the decoder.

    Args:
        encoders, decoder: the parts.
        sam_masks: None for a model without SAM.
        separate_masks: the model has a SAM of its own for masks, which reads the image.
    """

    def __init__(
        self,
        encoders: DeploymentHandle[Any],
        sam_masks: DeploymentHandle[Any] | None,
        decoder: DeploymentHandle[Any],
        *,
        separate_masks: bool,
    ) -> None:
        self._encoders = encoders
        self._sam_masks = sam_masks
        self._decoder = decoder
        self._separate_masks = separate_masks

    def _submit(
        self, image: PreparedImage, vocabulary: Vocabulary, options: SegmentOptions, with_masks: bool
    ) -> Awaitable[SegmentedImage]:
        encoded = self._encoders.encode.remote(image)
        masked: Awaitable[MaskedImage] | None = None
        if with_masks and self._sam_masks is not None:
            if self._separate_masks:
                masked = cast("Awaitable[MaskedImage]", self._sam_masks.masks_of_image.remote(image))
            else:
                masked = cast("Awaitable[MaskedImage]", self._sam_masks.masks.remote(encoded))
        return cast("Awaitable[SegmentedImage]", self._decoder.segment.remote(encoded, masked, vocabulary, options))

    async def segment(
        self, image: PreparedImage, vocabulary: Vocabulary, options: SegmentOptions, *, with_masks: bool
    ) -> SegmentedImage:
        """The segments of one image.

        While the model is being changed, some parts already have the new one and others the old: such a request is
        tried until they agree, which the request's own time limit ends.

        Raises:
            RequestRefusedError: a word that the model does not know (422), or no replica left after all attempts (503).
        """
        attempt = 0
        while attempt < ATTEMPTS:
            try:
                return await self._submit(image, vocabulary, options, with_masks)
            except UserInputError as error:
                raise RequestRefusedError(
                    HTTPStatus.UNPROCESSABLE_ENTITY, _message(error), field="options.vocabulary"
                ) from error
            except BackPressureError as error:
                raise _unavailable("the server is busy") from error
            except OtherModelError:
                await asyncio.sleep(RETRY_WAIT_S)
            except (RayActorError, RayServeException):
                # Serve's own exception stands for a part that died before it had made what the next one waits for.
                attempt += 1
                await asyncio.sleep(RETRY_WAIT_S * attempt)
        raise _unavailable("no replica answered")

    async def check(self, vocabulary: Vocabulary, options: SegmentOptions) -> None:
        """Runs a small picture through every part.

        Raises:
            RequestRefusedError: a part does not answer (503).
        """
        waiting: list[Awaitable[object]] = [self.segment(check_image(), vocabulary, options, with_masks=False)]
        if self._sam_masks is not None:
            waiting.append(cast("Awaitable[object]", self._sam_masks.check_health.remote()))
        try:
            await asyncio.gather(*waiting)
        except (RayActorError, RayTaskError, RayServeException) as error:
            raise _unavailable("a part of the model does not answer") from error


def _message(error: UserInputError) -> str:
    """An error that crossed processes carries the remote traceback in its text; its cause is the plain one."""
    return str(error.cause) if isinstance(error, RayTaskError) else str(error)


def _unavailable(detail: str) -> RequestRefusedError:
    return RequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "2"})
