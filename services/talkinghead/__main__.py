"""Starts the process: settings → backend → serve."""

import grpc

from services.talkinghead.backend import FPS, load_backend
from services.talkinghead.codec import available_codecs
from services.talkinghead.server import TalkingHeadServicer
from services.talkinghead.settings import Settings
from visavis import worker
from visavis.v1.talkinghead_pb2_grpc import add_TalkingHeadServiceServicer_to_server


def load() -> tuple[worker.Registrar, dict[str, str]]:
    backend = load_backend(settings)

    def register(server: grpc.aio.Server, shell: worker.Worker) -> None:
        add_TalkingHeadServiceServicer_to_server(
            TalkingHeadServicer(shell, backend, settings.threads), server
        )

    return register, {
        "fps": str(FPS),
        "codecs": ",".join(available_codecs()),
    }


if __name__ == "__main__":
    settings = Settings()
    worker.run("talkinghead", settings, load)
