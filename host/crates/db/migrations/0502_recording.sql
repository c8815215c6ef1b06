-- One row a plugin call; the body is described in docs/formats/recording.md.
CREATE TABLE recording (
    id {id},
    tenant TEXT NOT NULL,
    invocation TEXT NOT NULL,
    installation TEXT NOT NULL,
    plugin TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    function TEXT NOT NULL,
    run TEXT NOT NULL,
    status TEXT NOT NULL,
    started_ns BIGINT NOT NULL,
    wall_us BIGINT NOT NULL,
    cpu_us BIGINT NOT NULL,
    memory_bytes BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX recording_by_tenant ON recording (tenant, id);
CREATE INDEX recording_by_invocation ON recording (tenant, invocation);
CREATE INDEX recording_by_run ON recording (tenant, run, id);
CREATE INDEX recording_by_age ON recording (started_ns);
