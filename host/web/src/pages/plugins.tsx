// Installed plugins, and what each may do: nothing that is not listed here.
import { useState } from "react";
import { Link } from "wouter";
import { type Grant, type Invocation, type InvocationShown, type Items, type Outcome, type Plugin, type PluginShown, useLoad } from "../api";
import { Ago, Badge, Empty, Failed, Json, Panel, Scroll, bytes, micros } from "../parts";

export function Plugins() {
  const { data, error } = useLoad<Items<Plugin>>("/api/v1/plugins", 10_000);
  return (
    <>
      <h1>Plugins</h1>
      <Failed error={error} />
      <Empty when={data?.items.length === 0}>No plugin is installed. A resource of kind Plugin installs one.</Empty>
      <div className="cards">
        {data?.items.map((plugin) => (
          <Panel
            key={plugin.name}
            title={<Link href={`/plugins/${encodeURIComponent(plugin.name)}`}>{plugin.name}</Link>}
            aside={<Badge of={state(plugin)} />}
          >
            <p className="facts">
              <code>{plugin.plugin}</code> <span>{plugin.version}</span>
            </p>
            {plugin.problem && <p className="failed">{plugin.problem}</p>}
            <h3>May</h3>
            <Grants lines={words(plugin.grant)} />
            <Secrets of={plugin} />
          </Panel>
        ))}
      </div>
    </>
  );
}

export function PluginPage({ name }: { name: string }) {
  const path = encodeURIComponent(name);
  const { data: plugin, error } = useLoad<PluginShown>(`/api/v1/plugins/${path}`, 5_000);
  const calls = useLoad<Items<Invocation>>(`/api/v1/invocations?plugin=${path}&limit=50`, 5_000);
  const [open, setOpen] = useState<string>();
  if (!plugin) return <Failed error={error} />;
  const given = words(plugin.grant);
  const asked = plugin.asked ? words(plugin.asked) : [];
  const operations = plugin.manifest?.operations ?? [];
  return (
    <>
      <p className="crumbs">
        <Link href="/plugins">Plugins</Link> /
      </p>
      <h1>
        {plugin.name} <Badge of={state(plugin)} />
      </h1>
      {plugin.manifest?.description && <p>{plugin.manifest.description}</p>}
      <p className="facts">
        <code>{plugin.plugin}</code>
        <span>version {plugin.version}</span>
        <span>{plugin.manifest?.kinds?.join(", ")}</span>
        <span>{plugin.manifest?.license}</span>
        <code title={plugin.digest}>{plugin.digest.slice(0, 19)}…</code>
      </p>
      {plugin.problem && <p className="failed">{plugin.problem}</p>}
      <div className="columns">
        <Panel title="Permissions">
          <h3>Granted: it may</h3>
          <Grants lines={given} />
          <Secrets of={plugin} />
          {asked.length > 0 && (
            <>
              <h3>Asked for in its manifest</h3>
              <Grants lines={asked} isAsked />
            </>
          )}
        </Panel>
        <Panel title="Configuration">
          <Json of={plugin.config} />
          {operations.length > 0 && (
            <>
              <h3>Operations</h3>
              <ul className="rows">
                {operations.map((o) => (
                  <li key={o.name} className="pair">
                    <span>
                      <code>{o.name}</code> <span className="dim">{o.title}</span>
                    </span>
                    <span className="dim">{promise(o)}</span>
                  </li>
                ))}
              </ul>
            </>
          )}
        </Panel>
      </div>
      <Panel title="Meters since the host's start">
        <Empty when={plugin.meters.length === 0}>It was not called yet.</Empty>
        {plugin.meters.length > 0 && (
          <Scroll>
            <table className="flat">
              <thead>
                <tr>
                  <th>Function</th>
                  <th className="number">Calls</th>
                  <th className="number">Failures</th>
                  <th className="number">Denials</th>
                  <th className="number">CPU a call</th>
                  <th className="number">Wall a call</th>
                  <th className="number">Memory peak</th>
                  <th className="number">Sent / received</th>
                </tr>
              </thead>
              <tbody>
                {plugin.meters.map((m) => (
                  <tr key={`${m.function} ${m.version}`}>
                    <td>
                      <code>{m.function}</code>
                    </td>
                    <td className="number">{m.calls}</td>
                    <td className={m.failures > 0 ? "number bad" : "number"}>{m.failures}</td>
                    <td className={m.denials > 0 ? "number bad" : "number"}>{m.denials}</td>
                    <td className="number">{micros(m.cpuUs / Math.max(1, m.calls))}</td>
                    <td className="number">{micros(m.wallUs / Math.max(1, m.calls))}</td>
                    <td className="number">{bytes(m.memoryBytesPeak)}</td>
                    <td className="number">
                      {bytes(m.httpBytesSent)} / {bytes(m.httpBytesReceived)}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
        )}
      </Panel>
      <Panel title="Recent calls" aside={<span className="dim">each with every host call it made</span>}>
        <Failed error={calls.error} />
        <Empty when={calls.data?.items.length === 0}>None is recorded. Calls that changed and asked nothing are not kept.</Empty>
        <ul className="rows">
          {calls.data?.items.map((call) => (
            <li key={call.invocation}>
              <button type="button" className="row" aria-expanded={open === call.invocation} onClick={() => setOpen(open === call.invocation ? undefined : call.invocation)}>
                <Ago at={call.started} />
                <code>{call.function}</code>
                <Badge of={call.status} />
                <span className="dim">{micros(call.wallUs)}</span>
              </button>
              {open === call.invocation && <Call id={call.invocation} run={call.run} />}
            </li>
          ))}
        </ul>
      </Panel>
    </>
  );
}

function Call({ id, run }: { id: string; run: string | null }) {
  const { data, error } = useLoad<InvocationShown>(`/api/v1/invocations/${id}`);
  const recording = data?.recording;
  return (
    <div className="inset">
      <Failed error={error} />
      {run && (
        <p>
          for <Link href={`/runs/${run}`}>this run</Link>
        </p>
      )}
      {recording && (
        <>
          <Json of={recording.request} title="Request" />
          {recording.calls.length > 0 && <h3>Host calls</h3>}
          {recording.calls.map((call, i) => (
            <details key={i}>
              <summary>
                <span className="dim">+{micros(call.at_us)}</span> <code>{call.import}</code> <Badge of={call.result.status} />{" "}
                <span className="dim">{micros(call.took_us)}</span>
              </summary>
              <Json of={call.arguments} title="Arguments" />
              <Answer of={call.result} title="Result" />
            </details>
          ))}
          {recording.calls_dropped > 0 && <p className="dim">{recording.calls_dropped} more were not kept.</p>}
          <Answer of={recording.outcome} title="Answer" />
        </>
      )}
    </div>
  );
}

const Answer = ({ of, title }: { of: Outcome; title: string }) =>
  of.status === "ok" ? <Json of={of.value} title={title} /> : <Json of={of.error} title={`${title}: error`} />;

type Grantline = { text: string; risk: "high" | "medium" | "low" };

function Grants({ lines, isAsked = false }: { lines: Grantline[]; isAsked?: boolean }) {
  return (
    <ul className={isAsked ? "grants asked" : "grants"}>
      {lines.map((line) => (
        <li key={line.text} className={line.risk}>
          {line.text}
        </li>
      ))}
    </ul>
  );
}

function Secrets({ of }: { of: Plugin }) {
  const names = Object.values(of.secrets).map((s) => s.secret);
  if (names.length === 0) return null;
  return (
    <p className="dim small">
      {of.grant.reveal ? "Reads" : "Sends, without seeing it,"} {names.length === 1 ? "the secret" : "the secrets"}{" "}
      {names.map((name, i) => (
        <span key={name}>
          {i > 0 && ", "}
          <code>{name}</code>
        </span>
      ))}
      .
    </p>
  );
}

const state = (plugin: Plugin) => (!plugin.enabled ? "disabled" : plugin.isLoaded ? "enabled" : "not loaded");

/** How a call may be repeated after a crash, in a word. */
const promise = (o: { idempotent?: boolean; repeatable?: boolean; risk?: string }) =>
  [o.idempotent ? "idempotent" : o.repeatable ? "repeatable" : "asked when in doubt", o.risk && `${o.risk} risk`].filter(Boolean).join(", ");

const SAFE = ["GET", "HEAD", "OPTIONS"];

/** A grant as a person would say it, the riskiest first. */
function words(grant: Grant): Grantline[] {
  const lines: Grantline[] = [];
  if (grant.reveal) lines.push({ text: "read its secrets in clear", risk: "high" });
  for (const http of grant.http) {
    const methods = http.methods.length === 0 ? SAFE : http.methods;
    const writes = methods.some((m) => !SAFE.includes(m.toUpperCase()));
    lines.push({ text: `${methods.join(", ")} ${http.hosts.join(", ")}${http.path_prefix}`, risk: writes ? "medium" : "low" });
  }
  for (const socket of grant.sockets) lines.push({ text: `talk to ${socket}`, risk: "medium" });
  if (grant.telemetry.length > 0) lines.push({ text: `read ${grant.telemetry.join(", ")}`, risk: "low" });
  if (grant.state_bytes > 0) lines.push({ text: `keep ${bytes(grant.state_bytes)} of state`, risk: "low" });
  if (lines.length === 0) lines.push({ text: "nothing outside its sandbox", risk: "low" });
  return lines;
}
