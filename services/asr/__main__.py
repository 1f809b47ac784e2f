"""Starts the process: settings → backend → serve."""

import grpc

from services.asr.backend import load_backend
from services.asr.server import AsrServicer
from services.asr.settings import Settings
from visavis import worker
from visavis.v1.asr_pb2_grpc import add_AsrServiceServicer_to_server


def load() -> tuple[worker.Registrar, dict[str, str]]:
    backend = load_backend(settings)

    def register(server: grpc.aio.Server, shell: worker.Worker) -> None:
        add_AsrServiceServicer_to_server(AsrServicer(shell, settings, backend), server)

    return register, {
        "languages": ",".join(backend.languages),
    }


if __name__ == "__main__":
    settings = Settings()
    worker.run("asr", settings, load)
