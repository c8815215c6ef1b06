// A time chart: uPlot with the page's colours, resized with its box.
import { useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

const COLOURS = ["#4fb3a5", "#e8b04b", "#7c9ff5", "#e07a5f", "#b58cd9", "#8fbf5a", "#d46a92", "#6cc4e0"];

export type Line = { label: string; points: [number, number][]; colour?: string };

/** `from` and `to` in seconds: what was asked for, not only where there is data. */
type Props = { lines: Line[]; height?: number; bars?: boolean; from?: number; to?: number };

export function Chart({ lines, height = 260, bars = false, from, to }: Props) {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = box.current;
    if (!element || lines.length === 0) return;
    const times = [...new Set(lines.flatMap((line) => line.points.map(([t]) => t)))].sort((a, b) => a - b);
    const columns = lines.map((line) => {
      const at = new Map(line.points);
      return times.map((t) => at.get(t) ?? null);
    });
    const style = getComputedStyle(element);
    const ink = style.getPropertyValue("--dim").trim() || "#889";
    const grid = style.getPropertyValue("--edge").trim() || "#333";
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, size: 4 }, font: `12px ${style.fontFamily}` };
    const plot = new uPlot(
      {
        width: element.clientWidth,
        height,
        scales: {
          ...(from !== undefined && to !== undefined && { x: { range: [from, to] as [number, number] } }),
          ...(bars && { y: { range: (_, __, max) => [0, Math.max(1, max)] as [number, number] } }),
        },
        axes: [{ ...axis, values: (_, ticks, __, ___, incr) => ticks.map((t) => moment(t, incr)) }, { ...axis, size: 60, values: (_, ticks) => ticks.map(short) }],
        cursor: { points: { show: !bars } },
        series: [
          { value: (_, t) => (t === null ? "–" : moment(t, 1)) },
          ...lines.map((line, i) => {
            const colour = line.colour ?? COLOURS[i % COLOURS.length] ?? ink;
            return {
              label: line.label,
              stroke: colour,
              width: 1.5,
              spanGaps: false,
              value: (_: uPlot, v: number | null) => (v === null ? "–" : short(v)),
              points: { show: !bars && times.length < 2 },
              ...(bars && { paths: uPlot.paths.bars?.({ size: [0.8, 14] }), fill: `${colour}99`, width: 0 }),
            };
          }),
        ],
      },
      [times, ...columns],
      element,
    );
    const observer = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.destroy();
    };
  }, [lines, height, bars, from, to]);
  return <div className="chart" ref={box} />;
}

const MINUTES = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const SECONDS = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAYS = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

/** As exact as ticks this far apart need. */
function moment(seconds: number, apart: number): string {
  return (apart < 60 ? SECONDS : apart < 86_400 ? MINUTES : DAYS).format(new Date(seconds * 1000));
}

/** `12.3k` rather than a number that does not fit. */
function short(v: number): string {
  const size = Math.abs(v);
  if (size >= 1e9) return `${+(v / 1e9).toFixed(2)}G`;
  if (size >= 1e6) return `${+(v / 1e6).toFixed(2)}M`;
  if (size >= 1e4) return `${+(v / 1e3).toFixed(1)}k`;
  return size !== 0 && size < 1e-3 ? v.toExponential(1) : String(+v.toFixed(size < 1 ? 4 : 2));
}
