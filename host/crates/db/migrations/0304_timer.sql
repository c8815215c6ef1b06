-- When a run wants to be woken next: the earliest of its waits, timeouts and back-offs. One row a run.
CREATE TABLE timer (run TEXT PRIMARY KEY, tenant TEXT NOT NULL, due_ns BIGINT NOT NULL);
CREATE INDEX timer_by_due ON timer (due_ns);
