"""One image's way through the parts, with retries: a replica that dies takes no accepted request with it."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from frozenseg.errors import UserInputError
from frozenseg.types import Vocabulary
from serve.parts import PreparedImage, SegmentedImage
from serve.problems import RequestRefusedError
from serve.schema import SegmentOptions

ATTEMPTS = 4
RETRY_WAIT_S = 0.5


class SegmentPipeline:
    """Encoders, then SAM's masks where asked for, then the decoder."""

    def __init__(self, encoders: DeploymentHandle, sam_masks: DeploymentHandle, decoder: DeploymentHandle) -> None:
        self._encoders = encoders
        self._sam_masks = sam_masks
        self._decoder = decoder

    def _submit(
        self, image: PreparedImage, vocabulary: Vocabulary, options: SegmentOptions
    ) -> DeploymentResponse[SegmentedImage]:
        encoded = self._encoders.encode.remote(image)
        masked = self._sam_masks.masks.remote(encoded) if options.ensemble else None
        return self._decoder.segment.remote(encoded, masked, vocabulary, options)

    async def segment(self, image: PreparedImage, vocabulary: Vocabulary, options: SegmentOptions) -> SegmentedImage:
        """The segments of one image.

        Raises:
            RequestRefusedError: a word that the model does not know (422), or no replica left after all attempts (503).
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(RETRY_WAIT_S * attempt)
            try:
                return await self._submit(image, vocabulary, options)
            except UserInputError as error:
                raise RequestRefusedError(
                    HTTPStatus.UNPROCESSABLE_ENTITY, _message(error), field="options.vocabulary"
                ) from error
            except BackPressureError as error:
                raise _unavailable("the server is busy") from error
            except (RayActorError, DeploymentUnavailableError):
                continue
        raise _unavailable("no replica answered")


def _message(error: UserInputError) -> str:
    """An error that crossed processes carries the remote traceback in its text; its cause is the plain one."""
    return str(error.cause) if isinstance(error, RayTaskError) else str(error)


def _unavailable(detail: str) -> RequestRefusedError:
    return RequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "2"})
