// The HTTP API of the server, as far as the page uses it (docs/http_api.md). Addresses are
// relative, so that the page works behind a proxy that adds a path.
import {readEvents} from './sse.js';

// A request without any event for this long is given up. The deadlines of the server are shorter.
const SILENCE_MS = 300_000;
const UPLOAD_MS = 600_000;

export class ApiError extends Error {
  constructor(problem) {
    super(problem.detail ?? problem.code);
    this.code = problem.code;
    this.status = problem.status ?? 0;
    this.detail = problem.detail ?? '';
    this.requestId = problem.request_id ?? '';
    this.retryAfter = problem.retry_after_seconds ?? 0;
  }
}

function parseProblem(text, status, requestId) {
  try {
    const problem = JSON.parse(text);
    if (problem.code) return problem;
  } catch {
    // What answered is not Chord, for example a proxy.
  }
  return {code: 'UNREADABLE_ANSWER', status, detail: `HTTP ${status}`, request_id: requestId ?? ''};
}

const connectionLost = () => new ApiError({code: 'CONNECTION_LOST'});
const aborted = (signal) => signal.reason ?? new DOMException('', 'AbortError');

export async function loadConfig() {
  const response = await fetch('page.json');
  if (!response.ok) throw new ApiError(parseProblem(await response.text(), response.status));
  return response.json();
}

// Resolves to {image_id, image_size, expires_at}. Uses XMLHttpRequest because fetch does not report
// the progress of an upload. `onProgress` takes a share of 0 – 1.
export function uploadImage(file, {name, onProgress, signal}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    request.open('POST', 'api/images');
    request.timeout = UPLOAD_MS;
    request.upload.onprogress = (event) =>
        event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 200) return resolve(JSON.parse(request.responseText));
      return reject(new ApiError(parseProblem(
          request.responseText, request.status, request.getResponseHeader('X-Request-Id'))));
    };
    request.onerror = () => reject(connectionLost());
    request.ontimeout = () => reject(new ApiError({code: 'NO_ANSWER'}));
    request.onabort = () => reject(aborted(signal));
    request.onloadend = () => signal.removeEventListener('abort', abort);
    if (signal.aborted) return reject(aborted(signal));
    signal.addEventListener('abort', abort);
    const form = new FormData();
    form.append('image', file, name);
    return request.send(form);
  });
}

// One streamed request. `fields` are those of POST /api/ground. Resolves to the whole answer.
export async function ground(fields, {onDelta, onObject, signal}) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields))
    for (const one of [value].flat()) form.append(name, one);
  form.append('stream', 'true');
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new ApiError({code: 'NO_ANSWER'})), SILENCE_MS);
  };
  heard();
  const either = AbortSignal.any([signal, silence.signal]);
  try {
    const response = await fetch('api/ground', {method: 'POST', body: form, signal: either});
    if (!response.ok) {
      throw new ApiError(parseProblem(
          await response.text(), response.status, response.headers.get('X-Request-Id')));
    }
    for await (const {event, data} of readEvents(response.body)) {
      heard();
      if (event === 'delta') onDelta(data.text);
      if (event === 'object') onObject(data);
      if (event === 'response') return data;
      if (event === 'error') throw new ApiError(data);
    }
    throw connectionLost();  // the stream ended before its last event
  } catch (error) {
    if (either.aborted) throw aborted(either);
    throw error instanceof ApiError ? error : connectionLost();
  } finally {
    clearTimeout(timer);
  }
}
