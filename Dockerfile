# docker build -t afterglow .                                     CPU
# docker build -t afterglow --build-arg DEVICE=gpu .              CUDA 13 (the host brings the driver)
# docker run -p 8000:8000 -v "$PWD/artefacts:/artefacts:ro" afterglow --redis redis://redis:6379/0
# docker run -p 8000:8000 -v "$PWD/artefacts:/artefacts:ro" -v afterglow-state:/state afterglow --embedded-redis
FROM python:3.11-slim

ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY scripts/install-serving.sh scripts/
COPY service service
# Installed as a package; the sources stay only where pip put them.
RUN sh scripts/install-serving.sh "$DEVICE" python && rm -rf /app/*

# Numbers, so that an orchestrator can see the user is not root. /state is a place to mount, owned by that user.
RUN groupadd --gid 10001 afterglow && useradd --uid 10001 --gid 10001 --no-create-home afterglow \
    && mkdir /state && chown 10001:10001 /state
USER 10001:10001

# State must outlive a container: either a Redis elsewhere (--redis), or --embedded-redis with a volume at /state.
ENV AFTERGLOW_HOST=0.0.0.0 \
    AFTERGLOW_ARTEFACTS=/artefacts \
    AFTERGLOW_EMBEDDED_REDIS=false \
    AFTERGLOW_STATE_DIR=/state \
    AFTERGLOW_STATE_DIR_MUST_BE_MOUNTED=true \
    PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=2s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('AFTERGLOW_PORT', '8000') + '/readyz', timeout=1)"]
ENTRYPOINT ["python", "-m", "service", "serve"]
