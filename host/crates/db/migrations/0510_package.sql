-- Components a tenant uploaded. The bytes lie in the folder `packages`, named by digest; docs/formats/database.md
CREATE TABLE package (
  tenant TEXT NOT NULL,
  digest TEXT NOT NULL,
  plugin TEXT NOT NULL,
  version TEXT NOT NULL,
  bytes_count BIGINT NOT NULL,
  manifest TEXT NOT NULL,
  uploaded_by TEXT NOT NULL,
  uploaded_ns BIGINT NOT NULL,
  PRIMARY KEY (tenant, digest)
);
CREATE INDEX package_by_plugin ON package (tenant, plugin, version);
