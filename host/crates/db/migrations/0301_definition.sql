-- Workflow definitions. Each changed text is a new revision; runs pin theirs, triggers use the newest.
CREATE TABLE definition (
  tenant TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  revision BIGINT NOT NULL,
  version TEXT NOT NULL,
  -- Whether this is the newest revision of its name, and whether its triggers are on.
  is_newest BIGINT NOT NULL,
  is_enabled BIGINT NOT NULL,
  created_ns BIGINT NOT NULL,
  text TEXT NOT NULL,
  PRIMARY KEY (tenant, namespace, name, revision)
);
CREATE UNIQUE INDEX definition_newest ON definition (tenant, namespace, name) WHERE is_newest = 1;
-- When cron, every and after start a definition next (0: not by time), and what `schedule.on.all` has gathered.
CREATE TABLE definition_schedule (
  tenant TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  due_ns BIGINT NOT NULL,
  gathered TEXT NOT NULL,
  PRIMARY KEY (tenant, namespace, name)
);
CREATE INDEX definition_schedule_by_due ON definition_schedule (due_ns) WHERE due_ns > 0;
