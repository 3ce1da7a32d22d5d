/** The page: mounts the frame, which shows the view that the address names. */
import { render } from 'preact';
import { Frame } from './frame.tsx';
import { openLive } from './live.ts';
import './style.css';

openLive();
const place = document.getElementById('page');
if (place !== null) render(<Frame />, place);
