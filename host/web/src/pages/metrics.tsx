// Explore metrics by PromQL.
import { type FormEvent, useMemo, useState } from "react";
import { useLoad } from "../api";
import { Chart, type Line } from "../chart";
import { Empty, Failed, Panel, RANGES, RangeChoice } from "../parts";

type Matrix = { data: { result: { metric: Record<string, string>; values: [number, string][] }[] } };

const POINTS = 300;
/** More lines than colours can tell apart; the query should be narrower. */
const LINES_SHOWN = 40;
const NAMES_SHOWN = 60;

export function Metrics() {
  const first = new URLSearchParams(window.location.search).get("query") ?? "";
  const [text, setText] = useState(first);
  const [query, setQuery] = useState(first);
  const [range, setRange] = useState<number>(RANGES[0][1]);
  const [now, setNow] = useState(() => Math.floor(Date.now() / 1000));
  const names = useLoad<{ data: string[] }>("/api/v1/label/__name__/values");
  const step = Math.max(1, Math.round(range / POINTS));
  const path = query === "" ? null : `/api/v1/query_range?${new URLSearchParams({ query, start: String(now - range), end: String(now), step: String(step) })}`;
  const { data, error } = useLoad<Matrix>(path);
  const found = data?.data.result ?? [];
  const lines = useMemo<Line[]>(
    () =>
      found.slice(0, LINES_SHOWN).map((series) => ({
        label: name(series.metric),
        points: series.values.map(([t, v]) => [t, Number(v)]),
      })),
    [found],
  );
  const ask = (what: string) => {
    setNow(Math.floor(Date.now() / 1000));
    setText(what);
    setQuery(what.trim());
  };
  const submit = (event: FormEvent) => {
    event.preventDefault();
    ask(text);
  };
  return (
    <>
      <h1>Metrics</h1>
      <form className="query" onSubmit={submit}>
        <input
          aria-label="PromQL"
          list="names"
          placeholder="rate(http_requests_total[5m])"
          spellCheck={false}
          autoFocus
          value={text}
          onChange={(e) => setText(e.target.value)}
        />
        <datalist id="names">
          {names.data?.data.slice(0, 1000).map((n) => (
            <option key={n} value={n} />
          ))}
        </datalist>
        <RangeChoice value={range} onChange={(value) => (setRange(value), setNow(Math.floor(Date.now() / 1000)))} />
        <button type="submit">Run</button>
      </form>
      <Failed error={error ?? names.error} />
      {query === "" && (
        <Panel title="Metrics here" aside={<span className="dim">{names.data?.data.length ?? 0}</span>}>
          <Empty when={names.data?.data.length === 0}>None yet. Send some by remote write, OTLP or a scrape job.</Empty>
          <div className="choices">
            {names.data?.data.slice(0, NAMES_SHOWN).map((n) => (
              <button key={n} type="button" onClick={() => ask(n)}>
                <code>{n}</code>
              </button>
            ))}
          </div>
        </Panel>
      )}
      <Empty when={!error && data !== undefined && found.length === 0}>No series matches in this range.</Empty>
      {!error && lines.length > 0 && (
        <Panel title={<code>{query}</code>} aside={<span className="dim">{found.length > LINES_SHOWN ? `${LINES_SHOWN} of ${found.length}` : found.length} series</span>}>
          <Chart lines={lines} height={360} from={now - range} to={now} />
        </Panel>
      )}
    </>
  );
}

function name(metric: Record<string, string>): string {
  const rest = Object.entries(metric).filter(([n]) => n !== "__name__");
  return `${metric.__name__ ?? ""}{${rest.map(([n, v]) => `${n}="${v}"`).join(", ")}}`;
}
