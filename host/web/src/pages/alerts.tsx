// Alerts, and one alert with its timeline and the runs it started.
import { useState } from "react";
import { Link } from "wouter";
import { type Alert, type Items, type Run, type Silence, type TimelineRow, call, post, useLoad } from "../api";
import { Ago, Badge, Empty, Failed, Json, Labels, Panel, Scroll, lasted } from "../parts";

const SILENCE_HOURS = 2;

export function Alerts() {
  const [state, setState] = useState("open");
  const query = state === "open" ? "" : `?state=${state}&limit=200`;
  const { data, error } = useLoad<{ data: { alerts: Alert[] } }>(`/api/v1/alerts${query}`, 5_000);
  const alerts = data?.data.alerts.filter((a) => state !== "open" || a.state === "firing" || a.state === "pending");
  return (
    <>
      <h1>Alerts</h1>
      <div className="tabs" role="group" aria-label="Which alerts">
        {["open", "firing", "pending", "resolved", "inactive"].map((name) => (
          <button key={name} type="button" aria-pressed={state === name} onClick={() => setState(name)}>
            {name}
          </button>
        ))}
      </div>
      <Failed error={error} />
      <Empty when={alerts?.length === 0}>{state === "open" ? "Nothing is wrong: no alert is pending or firing." : `No alert is ${state}.`}</Empty>
      {alerts && alerts.length > 0 && (
        <Scroll>
          <table>
            <thead>
              <tr>
                <th>State</th>
                <th>Alert</th>
                <th>Summary</th>
                <th>Since</th>
              </tr>
            </thead>
            <tbody>
              {alerts.map((alert) => (
                <tr key={alert.id}>
                  <td>
                    <Badge of={alert.state} /> {alert.isSilenced && <Badge of="silenced" />}
                  </td>
                  <td>
                    <Link href={`/alerts/${alert.id}`}>{alert.labels.alertname}</Link>
                    <div>
                      <Labels of={alert.labels} />
                    </div>
                  </td>
                  <td>{alert.summary}</td>
                  <td className="narrow">
                    <Ago at={alert.activeAt} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      <div className="below">
        <Silences />
      </div>
    </>
  );
}

/** What is quiet on purpose, and until when. */
function Silences() {
  const { data, error, reload } = useLoad<Silence[]>("/api/v2/silences", 10_000);
  const [problem, setProblem] = useState<Error>();
  const active = data?.filter((s) => s.status.state !== "expired") ?? [];
  if (active.length === 0) return <Failed error={error} />;
  return (
    <Panel title="Silences">
      <Failed error={problem} />
      <ul className="rows">
        {active.map((s) => (
          <li key={s.id} className="pair">
            <span>
              {s.matchers.map((m) => (
                <code key={m.name}>
                  {m.name}
                  {m.isEqual ? (m.isRegex ? "=~" : "=") : m.isRegex ? "!~" : "!="}
                  {m.value}{" "}
                </code>
              ))}
              <span className="dim small">
                {s.status.state}, until {new Date(s.endsAt).toLocaleString()}, by {s.createdBy}
                {s.comment && `: ${s.comment}`}
              </span>
            </span>
            <button type="button" className="quiet" onClick={() => call(`/api/v2/silence/${s.id}`, { method: "DELETE" }).then(reload, setProblem)}>
              End it
            </button>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

export function AlertPage({ id }: { id: string }) {
  const { data, error, reload } = useLoad<{ alert: Alert & { evidence?: unknown }; timeline: TimelineRow[] }>(`/api/v1/alerts/${id}`, 5_000);
  const runs = useLoad<Items<Run>>(`/api/v1/runs?alert=${id}&limit=20`, 5_000);
  const [problem, setProblem] = useState<Error>();
  const [said, setSaid] = useState("");
  if (!data) return <Failed error={error} />;
  const { alert, timeline } = data;
  const silence = () => {
    const now = Date.now();
    const matchers = Object.entries(alert.labels).map(([name, value]) => ({ name, value, isRegex: false, isEqual: true }));
    post("/api/v2/silences", {
      matchers,
      startsAt: new Date(now).toISOString(),
      endsAt: new Date(now + SILENCE_HOURS * 3_600_000).toISOString(),
      createdBy: "web",
      comment: `from the page of ${alert.labels.alertname}`,
    }).then(() => (setSaid(`Silenced until ${new Date(now + SILENCE_HOURS * 3_600_000).toLocaleTimeString()}.`), reload()), setProblem);
  };
  return (
    <>
      <p className="crumbs">
        <Link href="/alerts">Alerts</Link> /
      </p>
      <h1>
        {alert.labels.alertname} <Badge of={alert.state} /> {alert.isSilenced && <Badge of="silenced" />}
      </h1>
      <p>{alert.summary}</p>
      <p>
        <Labels of={alert.labels} />
      </p>
      <p className="facts">
        <span>
          since <Ago at={alert.activeAt} />
        </span>
        {alert.value && (
          <span>
            value <b>{alert.value}</b>
          </span>
        )}
        {alert.severity && <span>{alert.severity}</span>}
        {alert.monitor && <span>monitor {alert.monitor}</span>}
        {(alert.flapScore ?? 0) > 0.2 && <span>flapping {Math.round((alert.flapScore ?? 0) * 100)} %</span>}
        <span className="acts">
          <button type="button" onClick={silence} disabled={alert.isSilenced}>
            Silence for {SILENCE_HOURS} h
          </button>
        </span>
      </p>
      {said && <p role="status">{said}</p>}
      <Failed error={problem} />
      <div className="columns">
        <Panel title="Timeline">
          <ol className="timeline">
            {timeline.map((row, i) => (
              <li key={`${row.at}-${i}`} className={row.to}>
                <Ago at={row.at} /> <Badge of={row.to} />
                <div>
                  {row.reason}
                  {row.value != null && row.to !== "resolved" && <span className="dim"> · value {row.value}</span>}
                </div>
              </li>
            ))}
          </ol>
        </Panel>
        <Panel title="Runs">
          <Empty when={runs.data?.items.length === 0}>No run was started by this alert.</Empty>
          <ul className="rows">
            {runs.data?.items.map((run) => (
              <li key={run.id}>
                <Link href={`/runs/${run.id}`}>
                  <Badge of={run.status} /> <b>{run.name}</b> <span className="dim">{lasted(run.started, run.ended)}</span>
                </Link>
              </li>
            ))}
          </ul>
        </Panel>
      </div>
      <Panel title="Evidence">
        <Evidence of={alert.evidence} />
      </Panel>
    </>
  );
}

/** What the detector saw. A query in it opens in the explorer. */
function Evidence({ of }: { of: unknown }) {
  const isEmpty = of === null || of === undefined || (typeof of === "object" && Object.keys(of).length === 0);
  if (isEmpty) return <Empty when>The detector gave none.</Empty>;
  const query = typeof of === "object" && of !== null && "query" in of ? of.query : undefined;
  return (
    <>
      {typeof query === "string" && (
        <p>
          <Link href={`/metrics-explorer?query=${encodeURIComponent(query)}`}>Look at its query</Link>
        </p>
      )}
      <Json of={of} />
    </>
  );
}
