// Compares results as Markdown tables: `node compare.js Longhaul=ours.jsonl '@tus/server=peer.jsonl'`.
// The files are the output of `longhaul-conformance --json`.

import { readFileSync } from 'node:fs';

const WORDS = ['ok', 'MUST', 'should', 'may', '-'];
const ORDER = ['3', '4', '5', '6', '7', '8', '9', '10', 'rfc', 'tus', 'plain'];

const servers = process.argv.slice(2).map((argument) => {
  const [name, file] = argument.split('=');
  const entries = readFileSync(file, 'utf8').trim().split('\n').map((line) => JSON.parse(line));
  return { name, entries };
});

const row = (cells) => console.log(`| ${cells.join(' | ')} |`);
const head = (first) => {
  row([first, ...servers.map(({ name }) => name)]);
  row(['---', ...servers.map(() => '---')]);
};
const place = (version) => ORDER.indexOf(version.replace('interop-', ''));

// Number of cases by version and verdict, over all transports.
const sums = (entries) => {
  const counts = WORDS.map((word) => [entries.filter(({ verdict }) => verdict === word).length, word]);
  return counts.filter(([count]) => count > 0).map(([count, word]) => `${count} ${word === '-' ? 'skipped' : word}`).join(', ');
};
const versions = new Set(servers.flatMap(({ entries }) => entries.map(({ version }) => version)));
head('version');
for (const version of [...versions].sort((a, b) => place(a) - place(b))) {
  row([version, ...servers.map(({ entries }) => sums(entries.filter((entry) => entry.version === version)))]);
}

// Cases with another verdict than `ok` in a version that the server offers.
const worst = (entries) => {
  const found = WORDS.slice(1, 4).find((word) => entries.some(({ verdict }) => verdict === word));
  if (found) return found;
  if (entries.length === 0) return '';
  return entries.some(({ verdict }) => verdict === 'ok') ? 'ok' : '-';
};
const names = [...new Set(servers.flatMap(({ entries }) => entries.map((entry) => entry.case)))];
console.log();
head('case');
for (const name of names) {
  const cells = servers.map(({ entries }) => worst(entries.filter((entry) => entry.case === name)));
  if (cells.some((cell) => WORDS.slice(1, 4).includes(cell))) row([name, ...cells]);
}
