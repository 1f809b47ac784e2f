"""Starts the process: settings → app → serve."""

import uvicorn

from services.gateway.app import create_app
from services.gateway.settings import Settings
from visavis.log import configure_logging

if __name__ == "__main__":
    settings = Settings()
    configure_logging("gateway", settings.log_level)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        ws_per_message_deflate=False,  # media does not shrink, and it costs time
        ws_max_size=64 * 1024,
        timeout_graceful_shutdown=10,
    )
