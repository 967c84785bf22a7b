"""Asking the Hugging Face Hub: with the token of the environment, patiently, refused in one line.

The bytes are then fetched by ``downloads``, which goes on with a part after a kill. The token comes
from HF_TOKEN or the Hugging Face login, the Hub's address from HF_ENDPOINT.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

from pairscape.acquire import downloads
from pairscape.core.errors import InputError
from pairscape.core.logs import log

Answer = TypeVar("Answer")
# Before huggingface_hub is imported, which reads it then.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def endpoint() -> str:
    """The address of the Hub."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def ask(
    question: Callable[[str | None], Answer],
    page: str,
    refusal: Callable[[Exception, int | None, str | None], InputError | None],
    sleep: Callable[[float], None] = time.sleep,
    tries: int = downloads.TRIES,
) -> Answer:
    """What the Hub answers to a question, which gets the token; a busy Hub is asked again.

    Parameters
    ----------
    question
        A call of ``huggingface_hub``.
    page
        Where a person reads about what is asked for, for messages.
    refusal
        Why the Hub doesn't give it, by its error, the status and the token, as far as asking again
        won't help; else None.
    """
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # its warnings name addresses with signatures in them
    # Whichever library it talks through: an error of the Hub is one of that library's, too.
    transport = [base for base in errors.HfHubHTTPError.__bases__ if base is not OSError]
    token = huggingface_hub.get_token()
    downloads.refuse_secret(token or "", page, "HF_TOKEN")
    for failures in range(tries):
        try:
            return question(token)
        except (
            errors.HFValidationError,
            errors.OfflineModeIsEnabled,
            *transport,
            errors.HfHubHTTPError,
            OSError,
        ) as error:
            # The message may hold the request, so only the status is told.
            status = getattr(getattr(error, "response", None), "status_code", None)
            told = f"status {status}" if status else type(error).__name__
            refused = refusal(error, status, token)
            if refused is None:
                offline = isinstance(error, errors.OfflineModeIsEnabled)
                final = offline or (status and status not in downloads.RETRY_STATUS)
                if final or failures + 1 == tries:
                    remedy = (
                        "run it where there is a network, such as a login node, and without "
                        "HF_HUB_OFFLINE; compute nodes then find the file"
                    )
                    refused = InputError(page, "download", told, remedy)
            if refused is not None:
                raise refused from None
            wait_s = 2.0**failures
            log.warning("%s: %s; trying again in %g s", page, told, wait_s)
            sleep(wait_s)
    raise AssertionError("unreachable")


def model_config(repo: str) -> tuple[str, object]:
    """The path of a model's fetched ``config.json``, and what the Hub says of its repository."""
    from huggingface_hub import HfApi, hf_hub_download

    def question(token):
        info = HfApi(endpoint=endpoint(), token=token).model_info(repo)
        return hf_hub_download(repo, "config.json", endpoint=endpoint(), token=token), info

    def refusal(error, status, token):
        if status in (401, 403, 404) or not isinstance(error, OSError):
            told = f"status {status}" if status else type(error).__name__
            remedy = "check the name and HF_TOKEN, or give a file of weights with --architecture"
            return InputError(repo, "config.json of the Hub", told, remedy)
        return None

    return ask(question, f"{endpoint()}/{repo}", refusal)


def headers() -> dict[str, str]:
    """The headers that show the token to the Hub, and to nobody else."""
    import huggingface_hub

    token = huggingface_hub.get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def no_access(page: str, licence: str, status: int | None, token: str | None) -> InputError:
    """The refusal of a gated repository."""
    which = "isn't allowed to read it" if token else "wasn't given"
    found = f"a gated repository (status {status}), and a token that {which}"
    remedy = f"{licence}ask for access at {page}, then set HF_TOKEN"
    return InputError(page, "access", found, remedy)
