-- Which runs listen to events of which type; an empty type is any. The filters are in the run's state.
CREATE TABLE listener (tenant TEXT NOT NULL, run TEXT NOT NULL, kind TEXT NOT NULL, PRIMARY KEY (run, kind));
