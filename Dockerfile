# The page and the HTTP interface of `maskconver serve`, without PyTorch.
#
#   docker build -t maskconver .
#   docker run --rm -p 127.0.0.1:8000:8000 maskconver
#
# Your own exported model: docker run … -v "$PWD/model.onnx:/model.onnx:ro" maskconver /model.onnx
FROM python:3.12-slim

WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir ".[onnx,serve]" && rm -rf /build \
    && useradd --no-create-home --shell /usr/sbin/nologin maskconver
WORKDIR /

USER maskconver
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
# Inside the container it must listen at every address; `-p 127.0.0.1:…` above keeps it to this machine.
ENTRYPOINT ["maskconver", "serve", "--host", "0.0.0.0"]
CMD ["nuclei"]
