# PostgreSQL with docsync: the official image, and the extension in it.
#
#   docker build -t docsync .                                    PG_MAJOR and DEBIAN say of which image
#   docker run -d -e POSTGRES_PASSWORD=... -p 5432:5432 docsync
#
# docsync is created in the first database (POSTGRES_DB); elsewhere it is CREATE EXTENSION docsync.

ARG PG_MAJOR=17
ARG DEBIAN=trixie

FROM postgres:${PG_MAJOR}-${DEBIAN} AS build
ARG PG_MAJOR
RUN apt-get update && \
    apt-get install -y --no-install-recommends gcc libc6-dev make "postgresql-server-dev-$PG_MAJOR"
COPY . /docsync
RUN make -C /docsync with_llvm=no DESTDIR=/install install

FROM postgres:${PG_MAJOR}-${DEBIAN}
COPY --from=build /install /
RUN printf '%s\n' 'CREATE EXTENSION docsync;' 'SELECT docsync_create_store();' \
    >/docker-entrypoint-initdb.d/docsync.sql
