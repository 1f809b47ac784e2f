"""Starts the process: settings → backend → serve."""

import grpc

from services.llm.backend import load_backend
from services.llm.server import LlmServicer
from services.llm.settings import Settings
from visavis import worker
from visavis.v1.llm_pb2_grpc import add_LlmServiceServicer_to_server


def load() -> tuple[worker.Registrar, dict[str, str]]:
    backend = load_backend(settings)

    def register(server: grpc.aio.Server, shell: worker.Worker) -> None:
        add_LlmServiceServicer_to_server(LlmServicer(shell, backend), server)

    return register, {"model": backend.model}


if __name__ == "__main__":
    settings = Settings()
    worker.run("llm", settings, load)
