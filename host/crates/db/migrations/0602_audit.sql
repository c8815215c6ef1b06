-- Who changed what. Only appended to.
CREATE TABLE audit (
  id {id},
  tenant TEXT NOT NULL,
  at_ns BIGINT NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  target TEXT NOT NULL,
  detail TEXT NOT NULL
);
CREATE INDEX audit_by_tenant ON audit (tenant, id);
