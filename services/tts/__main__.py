"""Starts the process: settings → backend → serve."""

import grpc

from services.tts.backend import load_backend
from services.tts.server import TtsServicer
from services.tts.settings import Settings
from visavis import worker
from visavis.v1.tts_pb2_grpc import add_TtsServiceServicer_to_server


def load() -> tuple[worker.Registrar, dict[str, str]]:
    backend = load_backend(settings)

    def register(server: grpc.aio.Server, shell: worker.Worker) -> None:
        add_TtsServiceServicer_to_server(TtsServicer(shell, backend), server)

    return register, {
        "sample_rate_hz": str(backend.sample_rate_hz),
        "voices": ",".join(backend.voices),
    }


if __name__ == "__main__":
    settings = Settings()
    worker.run("tts", settings, load)
