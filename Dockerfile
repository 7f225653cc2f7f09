# specsim where there is no GPU: docker build -t specsim .
# --build-arg EXTRAS=server leaves torch out, EXTRAS=measure,server,fast compiles the loops of simulate-serving.
FROM python:3.11.15-slim-bookworm AS base

FROM base AS build
ARG EXTRAS=measure,server
# torch from here is built for processors, and brings no libraries of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml locked.txt README.md LICENSE ./
COPY acceptance acceptance
COPY calibration calibration
COPY cuda_probe cuda_probe
COPY simulator simulator
# Versions are those of locked.txt, which holds constraints.txt; its hashes are of torch's CUDA build.
RUN python3 -m venv /opt/specsim \
    && sed 's/ --hash=.*//' locked.txt > pins.txt \
    && /opt/specsim/bin/pip install --no-cache-dir -c pins.txt setuptools wheel \
    && case ",$EXTRAS," in *,measure,*) /opt/specsim/bin/pip install --no-cache-dir -c pins.txt \
           --no-deps --index-url "$TORCH_INDEX" torch ;; esac \
    && /opt/specsim/bin/pip install --no-cache-dir -c pins.txt --no-build-isolation ".[$EXTRAS]"

FROM base
LABEL org.opencontainers.image.title="specsim" \
      org.opencontainers.image.description="Forecasts whether speculative decoding pays" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/specsim /opt/specsim
RUN useradd --uid 10001 --no-create-home --home-dir /work specsim \
    && install -d -o specsim -g specsim /work
# Caches lie in HOME, which is anyone's, so `--user` may name whoever owns the folder that is mounted at /work.
ENV PATH=/opt/specsim/bin:$PATH HOME=/tmp
USER 10001
WORKDIR /work
VOLUME ["/work"]
ENTRYPOINT ["specsim"]
CMD ["--help"]
