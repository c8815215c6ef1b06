-- A plugin's durable bytes; expires_ns 0 is never.
CREATE TABLE plugin_state (
    tenant TEXT NOT NULL,
    installation TEXT NOT NULL,
    state_key TEXT NOT NULL,
    value {bytes} NOT NULL,
    revision BIGINT NOT NULL,
    expires_ns BIGINT NOT NULL,
    PRIMARY KEY (tenant, installation, state_key)
);
