// A time chart: uPlot with the page's colours, resized with its box.
import { useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

const COLOURS = ["#4fb3a5", "#e8b04b", "#7c9ff5", "#e07a5f", "#b58cd9", "#8fbf5a", "#d46a92", "#6cc4e0"];

export type Line = { label: string; points: [number, number][] };

export function Chart({ lines, height = 260, bars = false }: { lines: Line[]; height?: number; bars?: boolean }) {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = box.current;
    if (!element || lines.length === 0) return;
    const times = [...new Set(lines.flatMap((line) => line.points.map(([t]) => t)))].sort((a, b) => a - b);
    const columns = lines.map((line) => {
      const at = new Map(line.points);
      return times.map((t) => at.get(t) ?? null);
    });
    const ink = getComputedStyle(element).getPropertyValue("--dim").trim() || "#889";
    const grid = getComputedStyle(element).getPropertyValue("--edge").trim() || "#333";
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid } };
    const plot = new uPlot(
      {
        width: element.clientWidth,
        height,
        axes: [axis, { ...axis, size: 64 }],
        series: [
          {},
          ...lines.map((line, i) => ({
            label: line.label,
            stroke: COLOURS[i % COLOURS.length],
            width: 1.5,
            spanGaps: false,
            points: { show: times.length < 2 },
            ...(bars && { paths: uPlot.paths.bars?.({ size: [0.8] }), fill: COLOURS[i % COLOURS.length], points: { show: false } }),
          })),
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
  }, [lines, height, bars]);
  return <div className="chart" ref={box} />;
}
