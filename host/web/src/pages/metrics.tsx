// Explore metrics by PromQL.
import { type FormEvent, useMemo, useState } from "react";
import { useLoad } from "../api";
import { Chart, type Line } from "../chart";
import { Empty, Failed, Panel } from "../parts";

type Matrix = { data: { result: { metric: Record<string, string>; values: [number, string][] }[] } };

const RANGES = [
  ["15 min", 900],
  ["1 h", 3_600],
  ["6 h", 21_600],
  ["1 d", 86_400],
  ["7 d", 604_800],
] as const;
const POINTS = 300;
const LINES_SHOWN = 50;

export function Metrics() {
  const first = new URLSearchParams(window.location.search).get("query") ?? "";
  const [text, setText] = useState(first);
  const [query, setQuery] = useState(first);
  const [range, setRange] = useState(3_600);
  const [now, setNow] = useState(() => Math.floor(Date.now() / 1000));
  const names = useLoad<{ data: string[] }>("/api/v1/label/__name__/values");
  const step = Math.max(1, Math.round(range / POINTS));
  const path = query === "" ? null : `/api/v1/query_range?${new URLSearchParams({ query, start: String(now - range), end: String(now), step: String(step) })}`;
  const { data, error } = useLoad<Matrix>(path);
  const lines = useMemo<Line[]>(
    () =>
      (data?.data.result ?? []).slice(0, LINES_SHOWN).map((series) => ({
        label: name(series.metric),
        points: series.values.map(([t, v]) => [t, Number(v)]),
      })),
    [data],
  );
  const run = (event: FormEvent) => {
    event.preventDefault();
    setNow(Math.floor(Date.now() / 1000));
    setQuery(text.trim());
  };
  return (
    <>
      <h1>Metrics</h1>
      <form className="query" onSubmit={run}>
        <input
          aria-label="PromQL"
          list="names"
          placeholder="rate(http_requests_total[5m])"
          spellCheck={false}
          value={text}
          onChange={(e) => setText(e.target.value)}
        />
        <datalist id="names">
          {names.data?.data.slice(0, 1000).map((n) => (
            <option key={n} value={n} />
          ))}
        </datalist>
        <select aria-label="Range" value={range} onChange={(e) => setRange(Number(e.target.value))}>
          {RANGES.map(([label, seconds]) => (
            <option key={seconds} value={seconds}>
              {label}
            </option>
          ))}
        </select>
        <button type="submit">Run</button>
      </form>
      <Failed error={error} />
      <Empty when={query === ""}>Write a query, or choose one of the {names.data?.data.length ?? 0} metrics.</Empty>
      <Empty when={data !== undefined && lines.length === 0}>No series matches in this range.</Empty>
      {lines.length > 0 && (
        <Panel title={query} aside={<span className="dim">{data?.data.result.length} series</span>}>
          <Chart lines={lines} height={340} />
        </Panel>
      )}
    </>
  );
}

function name(metric: Record<string, string>): string {
  const rest = Object.entries(metric).filter(([n]) => n !== "__name__");
  return `${metric.__name__ ?? ""}{${rest.map(([n, v]) => `${n}="${v}"`).join(", ")}}`;
}
