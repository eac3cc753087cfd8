// Server-sent events from a fetch body: yields {event, data} with `data` parsed from JSON.

export class EventParser {
  #rest = '';

  // Takes the next text; returns the events that are complete.
  push(text) {
    const blocks = (this.#rest + text).split('\n\n');
    this.#rest = blocks.pop();
    return blocks.map((block) => this.#parse(block)).filter(Boolean);
  }

  #parse(block) {
    let event = 'message';
    const data = [];
    for (const line of block.split('\n')) {
      if (line.startsWith('event:')) event = line.slice(6).trim();
      if (line.startsWith('data:')) data.push(line.slice(5).trim());
    }
    return data.length ? {event, data: JSON.parse(data.join('\n'))} : null;
  }
}

export async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    yield* parser.push(value);
  }
}
