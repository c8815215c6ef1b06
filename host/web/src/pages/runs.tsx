// Runs, and one run with the graph of its steps, their inputs and outputs.
import { useMemo, useState } from "react";
import { Link } from "wouter";
import { type Items, type Run, type Step, post, useLoad } from "../api";
import { Ago, Badge, Empty, Failed, Json, Panel, lasted } from "../parts";

export function Runs() {
  const { data, error } = useLoad<Items<Run>>("/api/v1/runs?limit=200", 5_000);
  return (
    <>
      <h1>Runs</h1>
      <Failed error={error} />
      <Empty when={data?.items.length === 0}>No workflow has run yet.</Empty>
      {data && data.items.length > 0 && (
        <table>
          <thead>
            <tr>
              <th>Status</th>
              <th>Workflow</th>
              <th>Started</th>
              <th>Lasted</th>
              <th>Waits for</th>
            </tr>
          </thead>
          <tbody>
            {data.items.map((run) => (
              <tr key={run.id}>
                <td>
                  <Badge of={run.asks ? "asks" : run.status} />
                </td>
                <td>
                  <Link href={`/runs/${run.id}`}>{run.name}</Link> <span className="dim">{run.version}</span>
                </td>
                <td>
                  <Ago at={run.started} />
                </td>
                <td>{lasted(run.started, run.ended)}</td>
                <td className="dim">{run.waits.map((w) => w.for).join(", ")}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </>
  );
}

type Node = Step & { children: Node[] };

function tree(steps: Step[]): Node[] {
  const nodes = new Map(steps.map((step) => [step.path, { ...step, children: [] as Node[] }]));
  const roots: Node[] = [];
  for (const node of nodes.values()) {
    const parent = node.parent === null ? undefined : nodes.get(node.parent);
    (parent ? parent.children : roots).push(node);
  }
  return roots;
}

export function RunPage({ id }: { id: string }) {
  const { data, error, reload } = useLoad<{ run: Run; steps: Step[] }>(`/api/v1/runs/${id}`, 2_000);
  const [chosen, setChosen] = useState<string>();
  const [problem, setProblem] = useState<Error>();
  const roots = useMemo(() => tree(data?.steps ?? []), [data]);
  if (!data) return <Failed error={error} />;
  const { run, steps } = data;
  const step = steps.find((s) => s.path === chosen);
  const act = (what: string, body?: unknown) => post(`/api/v1/runs/${id}/${what}`, body).then(reload, setProblem);
  const asked = steps.find((s) => s.status === "waiting" && s.kind === "listen");
  return (
    <>
      <p className="crumbs">
        <Link href="/runs">Runs</Link> /
      </p>
      <h1>
        {run.name} <Badge of={run.asks ? "asks" : run.status} />
      </h1>
      <p className="facts">
        <span>version {run.version}</span>
        <span>
          started <Ago at={run.started} />
        </span>
        <span>{lasted(run.started, run.ended)}</span>
        {run.alert && <Link href={`/alerts/${run.alert}`}>its alert</Link>}
        {run.ended === null && (
          <>
            <button type="button" onClick={() => act(run.status === "suspended" ? "resume" : "pause")}>
              {run.status === "suspended" ? "Resume" : "Pause"}
            </button>
            <button type="button" className="danger" onClick={() => act("cancel", { reason: "from the page" })}>
              Cancel
            </button>
          </>
        )}
      </p>
      {run.asks && asked && (
        <p className="ask">
          <b>{asked.name}</b> waits for an answer.
          <button type="button" onClick={() => act("answer", { step: asked.path, approved: true, comment: "" })}>
            Approve
          </button>
          <button type="button" className="danger" onClick={() => act("answer", { step: asked.path, approved: false, comment: "" })}>
            Reject
          </button>
        </p>
      )}
      <Failed error={problem} />
      <div className="columns wide-left">
        <Panel title="Steps">
          <Empty when={steps.length === 0}>No step has begun.</Empty>
          <Graph nodes={roots} chosen={chosen} onChoose={setChosen} />
        </Panel>
        <Panel title={step ? step.name : "Run"}>
          {step ? (
            <>
              <p className="facts">
                <Badge of={step.status} /> <span>{step.kind}</span> <span>{lasted(step.started, step.ended)}</span>
                {step.attempts > 1 && <span>{step.attempts} attempts</span>}
              </p>
              <code className="dim">{step.path}</code>
              <Json of={step.request} title="Asked of the plugin" />
              <Json of={step.input} title="Input" />
              <Json of={step.output} title="Output" />
              <Json of={step.error} title="Error" />
            </>
          ) : (
            <>
              <Json of={run.error} title="Error" />
              <Json of={run.input} title="Input" />
              <Json of={run.output} title="Output" />
            </>
          )}
        </Panel>
      </div>
    </>
  );
}

function Graph({ nodes, chosen, onChoose }: { nodes: Node[]; chosen: string | undefined; onChoose: (path: string) => void }) {
  return (
    <ol className="graph">
      {nodes.map((node) => (
        <li key={node.path} className={node.status}>
          <button type="button" aria-pressed={node.path === chosen} onClick={() => onChoose(node.path)}>
            <i aria-hidden="true" />
            <span>
              <b>{node.name}</b> <span className="dim">{node.kind}</span>
            </span>
            <span className="dim">
              {node.status === "completed" ? lasted(node.started, node.ended) : node.status}
              {node.attempts > 1 && ` ×${node.attempts}`}
            </span>
          </button>
          {node.children.length > 0 && <Graph nodes={node.children} chosen={chosen} onChoose={onChoose} />}
        </li>
      ))}
    </ol>
  );
}
