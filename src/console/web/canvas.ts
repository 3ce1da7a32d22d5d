/** A canvas as large as its place, sharp on every screen, drawn anew when its size or the colours change. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { colours } from './theme.ts';

export interface Painted {
  canvas: HTMLCanvasElement;
  context: CanvasRenderingContext2D;
  /** CSS pixels. */
  width: number;
  height: number;
  /** Device pixels of a CSS pixel. */
  ratio: number;
}

/** `paint` is called within a frame, once for any number of changes. Returns the canvas's ref and its width, CSS pixels. */
export function useCanvas(height: number, paint: (painted: Painted) => void, changed: readonly unknown[]) {
  const ref = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const parent = ref.current?.parentElement;
    if (parent === null || parent === undefined) return undefined;
    const observer = new ResizeObserver(() => setWidth(parent.clientWidth));
    observer.observe(parent);
    setWidth(parent.clientWidth);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    const canvas = ref.current;
    const context = canvas?.getContext('2d');
    if (canvas === null || context === null || context === undefined || width === 0) return undefined;
    const frame = requestAnimationFrame(() => {
      const ratio = devicePixelRatio;
      const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
      if (canvas.width !== wide || canvas.height !== high)
        Object.assign(canvas, { width: wide, height: high });
      canvas.style.height = `${height}px`;
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      paint({ canvas, context, width, height, ratio });
    });
    return () => cancelAnimationFrame(frame);
  }, [width, height, colours.value, ...changed]);
  return { ref, width };
}
