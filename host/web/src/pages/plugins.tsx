// Installed plugins, and what each may do: nothing that is not listed here.
import { type Grant, type Items, type Plugin, useLoad } from "../api";
import { Badge, Empty, Failed, Panel } from "../parts";

export function Plugins() {
  const { data, error } = useLoad<Items<Plugin>>("/api/v1/plugins", 10_000);
  return (
    <>
      <h1>Plugins</h1>
      <Failed error={error} />
      <Empty when={data?.items.length === 0}>No plugin is installed.</Empty>
      <div className="cards">
        {data?.items.map((plugin) => (
          <Panel
            key={plugin.name}
            title={plugin.name}
            aside={<Badge of={plugin.enabled ? "enabled" : "disabled"} />}
          >
            <p className="facts">
              <code>{plugin.plugin}</code> <span>{plugin.version}</span>
              <code className="dim" title={plugin.digest}>
                {plugin.digest.slice(0, 19)}…
              </code>
            </p>
            <h3>May</h3>
            <ul className="grants">
              {words(plugin.grant).map((line) => (
                <li key={line.text} className={line.risk}>
                  {line.text}
                </li>
              ))}
            </ul>
            {Object.keys(plugin.secrets).length > 0 && (
              <p className="dim">
                Uses the secrets {Object.values(plugin.secrets).map((s) => s.secret).join(", ")} without seeing them.
              </p>
            )}
          </Panel>
        ))}
      </div>
    </>
  );
}

const SAFE = ["GET", "HEAD", "OPTIONS"];

/** A grant as a person would say it, the riskiest first. */
function words(grant: Grant): { text: string; risk: "high" | "medium" | "low" }[] {
  const lines: { text: string; risk: "high" | "medium" | "low" }[] = [];
  if (grant.reveal) lines.push({ text: "read its secrets in clear", risk: "high" });
  for (const http of grant.http) {
    const methods = http.methods.length === 0 ? SAFE : http.methods;
    const writes = methods.some((m) => !SAFE.includes(m.toUpperCase()));
    lines.push({ text: `${methods.join(", ")} on ${http.hosts.join(", ")}${http.path_prefix}`, risk: writes ? "medium" : "low" });
  }
  for (const socket of grant.sockets) lines.push({ text: `talk to ${socket}`, risk: "medium" });
  if (grant.telemetry.length > 0) lines.push({ text: `read ${grant.telemetry.join(", ")}`, risk: "low" });
  if (grant.state_bytes > 0) lines.push({ text: `keep ${Math.round(grant.state_bytes / 1024)} KiB of state`, risk: "low" });
  if (lines.length === 0) lines.push({ text: "nothing outside its sandbox", risk: "low" });
  return lines;
}
