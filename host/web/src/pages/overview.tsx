// What is wrong now, what is being done about it, and what has just happened.
import { useEffect, useState } from "react";
import { Link } from "wouter";
import { type Alert, type BusEvent, type Items, type Run, useEvents, useLoad } from "../api";
import { Ago, Badge, Empty, Failed, Labels, Panel } from "../parts";
import { waiting } from "./runs";

const EVENTS_SHOWN = 40;

export function Overview() {
  const alerts = useLoad<{ data: { alerts: Alert[] } }>("/api/v1/alerts", 10_000);
  const runs = useLoad<Items<Run>>("/api/v1/runs?limit=50", 10_000);
  const [events, setEvents] = useState<BusEvent[]>([]);
  const live = useEvents((event) => {
    setEvents((before) => [event, ...before.filter((e) => e.id !== event.id)].slice(0, EVENTS_SHOWN));
    if (event.type.startsWith("io.orchestrix.alert.")) alerts.reload();
    if (event.type.includes("workflow")) runs.reload();
  });
  // What was before the page was opened; what happens from now on comes by the stream.
  const past = useLoad<Items<BusEvent>>(`/api/v1/events?limit=${EVENTS_SHOWN}`);
  useEffect(() => {
    setEvents((now) => {
      const known = new Set(now.map((e) => e.id));
      return [...now, ...(past.data?.items ?? []).filter((e) => !known.has(e.id))].slice(0, EVENTS_SHOWN);
    });
  }, [past.data]);
  const open = alerts.data?.data.alerts.filter((a) => a.state === "firing" || a.state === "pending") ?? [];
  const firing = open.filter((a) => a.state === "firing");
  const active = runs.data?.items.filter((r) => r.ended === null) ?? [];
  const asks = active.filter((r) => r.asks);
  return (
    <>
      <h1>
        Overview <span className={live ? "live on" : "live"}>{live ? "live" : "reconnecting"}</span>
      </h1>
      <div className="tiles">
        <Tile href="/alerts" count={firing.length} name="firing" tone={firing.length > 0 ? "bad" : "good"} />
        <Tile href="/alerts" count={open.length - firing.length} name="pending" tone={open.length > firing.length ? "warn" : "good"} />
        <Tile href="/runs" count={active.length} name="runs in flight" tone="calm" />
        <Tile href="/runs" count={asks.length} name="wait for a person" tone={asks.length > 0 ? "warn" : "good"} />
      </div>
      <Failed error={alerts.error ?? runs.error} />
      <div className="columns">
        <Panel title="Wrong now">
          <Empty when={alerts.data !== undefined && open.length === 0}>Nothing is wrong.</Empty>
          <ul className="rows">
            {open.map((alert) => (
              <li key={alert.id}>
                <Link href={`/alerts/${alert.id}`}>
                  <span className="line"><Badge of={alert.state} /> <b>{alert.labels.alertname}</b> {alert.isSilenced && <Badge of="silenced" />} <Ago at={alert.activeAt} /></span>
                  <div className="dim">{alert.summary}</div>
                  <Labels of={alert.labels} />
                </Link>
              </li>
            ))}
          </ul>
        </Panel>
        <Panel title="Being repaired">
          <Empty when={runs.data !== undefined && active.length === 0}>No run is in flight.</Empty>
          <ul className="rows">
            {active.map((run) => (
              <li key={run.id}>
                <Link href={`/runs/${run.id}`}>
                  <span className="line"><Badge of={run.asks ? "asks" : run.status} /> <b>{run.name}</b> <Ago at={run.started} /></span>
                  <div className="dim">{run.waits.map(waiting).join("; ")}</div>
                </Link>
              </li>
            ))}
          </ul>
        </Panel>
      </div>
      <Panel title="Events">
        <Empty when={events.length === 0}>Events appear here as they happen.</Empty>
        <ol className="events">
          {events.map((event) => (
            <li key={event.id} className={tone(event)}>
              <Ago at={event.time} />
              <span>{said(event)}</span>
              <code title={event.type}>{event.type}</code>
            </li>
          ))}
        </ol>
      </Panel>
    </>
  );
}

function Tile({ href, count, name, tone }: { href: string; count: number; name: string; tone: string }) {
  return (
    <Link href={href} className={`tile ${tone}`}>
      <strong>{count}</strong>
      <span>{name}</span>
    </Link>
  );
}

type Told = {
  alert?: { id?: string; summary?: string; labels?: Record<string, string> };
  to?: string;
  reason?: string;
  task?: string;
  run?: string;
  step?: string;
  approved?: boolean;
  by?: string;
  comment?: string;
};

/** An event in words, with a way to what it is about. */
function said(event: BusEvent) {
  const data = (typeof event.data === "object" && event.data !== null ? event.data : {}) as Told;
  if (event.type.startsWith("io.orchestrix.alert.")) {
    const name = data.alert?.labels?.alertname ?? event.source;
    const text = data.alert?.summary || data.reason;
    return (
      <>
        {data.alert?.id ? <Link href={`/alerts/${data.alert.id}`}>{name}</Link> : name} {text && <span className="dim">{text}</span>}
      </>
    );
  }
  const run = /^[0-9a-f-]{36}$/.test(event.subject ?? "") ? event.subject : undefined;
  const name = event.source.split("/").pop() || event.source;
  if (event.type.startsWith("io.serverlessworkflow.") && run) {
    const step = data.task?.split("/").pop();
    return (
      <>
        <Link href={`/runs/${run}`}>{name}</Link> {step && <span className="dim">{step}</span>}
      </>
    );
  }
  if (event.type === "io.orchestrix.approval.answered" && data.run) {
    return (
      <>
        <Link href={`/runs/${data.run}`}>{data.step?.split("/").pop() ?? "a run"}</Link>{" "}
        <span className="dim">
          {data.approved ? "approved" : "rejected"} by {data.by}
          {data.comment && `: ${data.comment}`}
        </span>
      </>
    );
  }
  return (
    <>
      {name} {event.subject && <span className="dim">{event.subject}</span>}
    </>
  );
}

function tone({ type }: BusEvent): string {
  if (/firing|faulted|refused/.test(type)) return "bad";
  if (/pending|suspended|retried/.test(type)) return "warn";
  if (/resolved|completed/.test(type)) return "good";
  return "";
}
