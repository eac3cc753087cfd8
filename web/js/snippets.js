// The request that was made, as a command or program to repeat it elsewhere.

export const shellQuote = (text) => `'${text.replaceAll('\'', `'\\''`)}'`;

// JSON strings are Python strings, too.
const pythonString = JSON.stringify;

// `request`: {url, grpcAddress, fileName, imageId, fields}. With `imageId` the image that the
// server keeps is named, otherwise the file goes along.
export function curl({url, fileName, imageId, fields}) {
  const source = imageId ? `-F image_id=${imageId}` : `-F image=@${shellQuote(fileName)}`;
  const rest = Object.entries(fields).flatMap(
      ([name, value]) => [value].flat().map(
          (one) => `  --form-string ${shellQuote(`${name}=${one}`)}`));
  return [`curl ${shellQuote(`${url}api/ground`)}`, `  ${source}`, ...rest].join(' \\\n');
}

export function python({url, fileName, imageId, fields}) {
  const pairs =
      Object.entries(imageId ? {image_id: imageId, ...fields} : fields)
          .map(([name, value]) => `        ${pythonString(name)}: ${pythonString(value)},`);
  const body = [`    ${imageId ? 'json' : 'data'}={`, ...pairs, '    },', '    timeout=60,', ')'];
  const call = ['answer = requests.post(', `    ${pythonString(`${url}api/ground`)},`];
  const use = [
    'answer.raise_for_status()',
    'for item in answer.json()["objects"]:',
    '    print(item["label"], item["box"], item["confidence"])',
  ];
  if (imageId) return ['import requests', '', ...call, ...body, ...use, ''].join('\n');
  const inner = [...call, '    files={"image": image},', ...body].map((line) => `    ${line}`);
  return [
    'import requests', '', `with open(${pythonString(fileName)}, "rb") as image:`, ...inner, ...use,
    ''
  ].join('\n');
}

// The message goes in by standard input: a file does not fit on a command line.
export function grpcurl({grpcAddress, fileName, imageId, fields}) {
  const call = `grpcurl -plaintext -d @ ${grpcAddress} chord.v1.Grounding/Ground`;
  const rest = JSON.stringify(fields);
  if (imageId) {
    return `printf '%s' ${
        shellQuote(JSON.stringify({image_id: imageId, ...JSON.parse(rest)}))} |\n  ${call}`;
  }
  return [
    `{ printf '{"image":"'`,
    `  base64 < ${shellQuote(fileName)} | tr -d '\\n'`,
    `  printf '%s' ${shellQuote(`",${rest.slice(1)}`)}`,
    `} | ${call}`,
  ].join('\n');
}

// Where the gRPC server is for someone who reached the page under `hostname`.
export function reachable(grpcAddress, hostname) {
  if (grpcAddress.startsWith('unix:')) return grpcAddress;
  const port = grpcAddress.slice(grpcAddress.lastIndexOf(':') + 1);
  const host = hostname.includes(':') && !hostname.startsWith('[') ? `[${hostname}]` : hostname;
  return `${host}:${port}`;
}
