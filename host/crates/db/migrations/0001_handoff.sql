-- Hand-off rows between stages, and the cursors by which stages read them. docs/formats/database.md
CREATE TABLE handoff_finding        (id {id}, tenant TEXT NOT NULL, at_ns BIGINT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE handoff_action_request (id {id}, tenant TEXT NOT NULL, at_ns BIGINT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE handoff_action_result  (id {id}, tenant TEXT NOT NULL, at_ns BIGINT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE handoff_event          (id {id}, tenant TEXT NOT NULL, at_ns BIGINT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE cursor (consumer TEXT NOT NULL, topic TEXT NOT NULL, last_id BIGINT NOT NULL, PRIMARY KEY (consumer, topic));
CREATE TABLE tenant (id TEXT PRIMARY KEY, created_ns BIGINT NOT NULL);
