"""Makes cases.json: what Jinja2 makes of small templates, with the settings of the transformers library.

    pip install jinja2==3.1.6
    python cases.py > cases.json

A case that fails in Jinja2 has the error null: how it is worded is not compared.
"""

import json
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import SandboxedEnvironment

VARS = {
    "s": "Hello, Wörld!",
    "words": "  one two\tthree \n four ",
    "lines": "a\nbb\n\nccc",
    "n": 7,
    "f": 2.5,
    "t": True,
    "no": None,
    "empty": "",
    "l": [3, 1, 2],
    "names": ["bob", "Alice", "carol", "Bob"],
    "d": {"b": 1, "a": [1, 2], "items": "entry", "é": None},
    "people": [{"name": "Bob", "age": 30, "tags": ["x"]}, {"name": "alice", "age": 25}, {"name": "Carl", "age": 30, "tags": []}],
    "tree": [{"v": 1, "kids": [{"v": 2, "kids": [{"v": 3, "kids": []}]}, {"v": 4, "kids": []}]}],
}

EXPRESSIONS = r"""
1 + 2 * 3 - 4
(1 + 2) * 3
7 / 2
7 // 2
-7 // 2
7 % 3
-7 % 3
7 % -3
7.5 % 2
-7.5 // 2
2 ** 10
2 ** 3 ** 2
-2 ** 2
2 ** -1
2 ** 0.5
1 / 0
1 // 0
1 % 0
1e3
1.5e-7
1_000
0x1F + 0b101 + 0o17
0.1 + 0.2
1e16
123456789.0 * 10
1e15 + 0.5
10 / 5
3.0
true + 1
+n
-f
- n | abs
-n|abs
'a' + 'b'
'a' + 1
1 + 'a'
'a' * 3
3 * 'ab'
'a' * -1
[1] * 2 + [3]
(1, 2) + (3,)
[1] + (2,)
'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x']
1 ~ 2 + 3
1 + 2 ~ 3
1 < 2 < 3
1 < 3 < 2
1 == 1.0
1 == true
'a' < 'b'
'a' < 1
[1, 2] < [1, 3]
(1, 2) == [1, 2]
{'a': 1} == {'a': 1.0}
none == none
none < 1
'ell' in s
'x' not in s
2 in l
'a' in d
'b' in 'abc' and not 'z' in 'abc'
1 in 5
1 in 'abc'
not true or true
not (true or true)
1 or 2
0 or 'x'
0 and 'x'
'' or none
1 if t else 2
1 if no
(1 if no) is undefined
1 if t else 2 if no else 3
[1, 2, 3][0]
[1, 2, 3][-1]
[1, 2, 3][5]
[1, 2, 3][5] is defined
s[0] ~ s[8] ~ s[-1]
s[1:5]
s[:3] ~ '|' ~ s[-3:]
s[::-1]
s[::2]
s[10:2:-3]
l[1:]
l[:-1]
l[::-1]
l[5:]
l[-100:2]
(1, 2, 3)[1:]
l[::0]
l['x']
d.b
d['b']
d.items is callable
d['items']
d.items()|list
d.nothing
d.nothing.more
d['nothing'] is undefined
d.é
nothing
nothing.x
nothing + 1
nothing ~ 'x'
nothing|length
nothing == nothing2
nothing < 1
'x' in nothing
not nothing
-nothing
nothing()
no.x is defined
no.x.y
5()
'abc'.nothing is defined
people[0].name
people[0]['tags'][0]
people.0.name
{'a': 1, 2: 'b', none: 3, 1.5: 4, true: 5}
{'a': 1, 'a': 2}
{1: 'x'}[1.0]
{1: 'x'}[true]
{[1]: 2}
{(1, 2): 3}[(1, 2)]
[]
()
(1,)
[1, [2, (3, {'x': "it's"})]]
'it\'s "q"'
["it's", 'say "x"', 'both \' and "', 'tab\t nl\n nul\x00 é \u200b \U0001F600 \x7f']
'a' 'b' "c"
"\x41\u00e9\101\q\\n\
x"
[1.0, 1e100, -0.0, 1e-5, 123456.789]
[true, false, none]
s|upper
s|lower
'hELLO wORLD'|capitalize
"hello wORLD it's foo-bar (baz)"|title
"hello wORLD it's foo-bar (baz)".title()
words|trim
words|trim == words.strip()
'xxabcxx'|trim('x')
'xyabcyx'|trim('xy')
nothing|trim
no|trim
5|trim
'\x1cabc\u2003'|trim
s|replace('l', 'L')
s|replace('l', 'L', 1)
'abc'|replace('', '-')
5|replace(5, 6)
lines|indent
lines|indent(2)
lines|indent(2, true)
lines|indent(2, blank=true)
lines|indent('> ', first=true, blank=true)
'a\r\nb\x0bc\u2028d'|indent(1)
''|indent(2, true)
'%s is %d and %5.2f|%-5s|%05d|%x|%%'|format('x', 3, 2.5, 'ab', 42, 255)
'%s' % 'x'
'%s %s' % ('x', 1)
'%(a)s' % {'a': 5}
'%d' % 'x'
'%s %s' % 'x'
'%s' % [1, 2]
'%r' % 'x'
'%+d % d %e %g' % (1, 2, 12345.678, 0.0001)
'x' % 1
'{} {}'.format(1, 'x')
'{1} {0} {a}'.format(1, 'x', a=2)
'{{}}'.format()
'{'.format()
'<a href="x">\'&</a>'|e
'abcdef ghi jkl'|truncate(9)
'abcdef ghi jkl'|truncate(9, true, '', 0)
'abcdef ghi jkl mno'|truncate(10, leeway=0)
'foo bar baz'|wordcount
'a b/c?d=é&f'|urlencode
'abc'|center(9) ~ '|'
'abc'|center(8) ~ '|'
'abcd'|center(9) ~ '|'
s|length
'日本'|length
l|length
d|count
5|length
no|length
l|first
l|last
[]|first
''|last
'é'|first
l|join
l|join(', ')
people|join(', ', attribute='name')
names|join('-')|upper
nothing|join(',')
l|sort
l|sort(reverse=true)
names|sort
names|sort(case_sensitive=true)
people|sort(attribute='age')|map(attribute='name')|list
people|sort(attribute='age,name')|map(attribute='name')|list
[1, 'a']|sort
names|unique|list
names|unique(case_sensitive=true)|list
l|reverse|list
'héy'|reverse
l|sum
people|sum(attribute='age')
[[1], [2]]|sum(start=[])
l|min
l|max
names|min
names|max(case_sensitive=true)
people|max(attribute='age')
[]|max
l|list
'ab'|list
d|list
5|list
people|map(attribute='name')|list
people|map(attribute='tags', default='-')|list
people|map(attribute='tags.0')|list
names|map('upper')|list
names|map('replace', 'o', '0')|list
l|map('nosuch')|list
l|select|list
[0, 1, '', 'x']|select|list
l|select('odd')|list
l|select('>', 1)|list
l|reject('equalto', 1)|list
people|selectattr('tags')|map(attribute='name')|list
people|selectattr('age', 'equalto', 30)|map(attribute='name')|list
people|selectattr('age', '==', 25)|list
people|selectattr('tags', 'defined')|map(attribute='name')|list
people|rejectattr('tags', 'defined')|map(attribute='name')|list
people|selectattr('name', 'in', ['Bob', 'Carl'])|list|length
d|items|list
nothing|items|list
5|items|list
d|dictsort
{'B': 2, 'a': 3}|dictsort
{'B': 2, 'a': 1}|dictsort(by='value')
{'B': 2, 'a': 3}|dictsort(true)
{'B': 2, 'a': 3}|dictsort(reverse=true)
[1, 2, 3, 4, 5]|batch(2)|list
[1, 2, 3]|batch(2, 'x')|list
people|groupby('age')|list
'12'|int
' 12 '|int
'12.7'|int
'x'|int
'x'|int(5)
'0x1f'|int(base=16)
'ff'|int(0, 16)
2.9|int
-2.9|int
no|int
true|int
'1.5'|float
'x'|float
'x'|float(1.0)
3|float
-3|abs
2.5|round
3.5|round
-2.567|round(2)
2.567|round(2, 'floor')
2.561|round(2, 'ceil')
1234.5|round(-2)
7|round
1234|round(-2)
1234567|round(-2, 'floor')
7|round(1, 'ceil')
'  a b  '.split(none, 0)
' a  b '.rsplit(none, 5)
' a  b '.split(none, 1)
'  '.split()
'  '.rsplit()
nothing|default('x')
no|default('x')
no|default('x', true)
''|d('x', boolean=true)
nothing|d
5|string
[1]|string
no|string
d|tojson
people|tojson
people|tojson(indent=2)
[]|tojson(indent=2)
{'a': {}}|tojson(indent=4)
[1, [2]]|tojson(separators=(',', ':'))
{'b': 1, 'a': 2}|tojson(sort_keys=true)
'é"\\/\n\t\x01\x7f<>&\u2028😀'|tojson
'é😀'|tojson(ensure_ascii=true)
[1.0, 1e20, 0.1, true, none, 12345678901]|tojson
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
nothing|tojson
(1, 2)|tojson
1|nosuch
n is defined
nothing is defined
nothing is not defined
no is none
n is not none
t is true
n is true
t is boolean
n is boolean
n is integer
t is integer
f is float
n is number
t is number
s is string
l is string
d is mapping
l is mapping
l is sequence
s is sequence
d is sequence
n is sequence
l is iterable
s is iterable
n is iterable
nothing is iterable
range is callable
n is callable
n is odd
n is even
-3 is odd
n is divisibleby 7
n is divisibleby(2)
'abc' is lower
'ABC' is upper
'123' is lower
'abc' is in ['abc']
n is in l
n is eq 7
n is sameas 7
n is gt 5 and n is lt 8
n is ge(7)
'upper' is filter
'odd' is test
n is nosuch
n is odd or n is even
not n is odd
s.upper() ~ s.lower()
words.split()
words.split(none, 2)
words.rsplit(none, 1)
'a,b,,c'.split(',')
'a,b,,c'.split(',', 1)
'a,b,,c'.rsplit(',', 1)
'a,b,c'.split(',', maxsplit=0)
''.split()
''.split(',')
'abc'.split('')
'a</think>b'.split('</think>')[-1]
'xxaxx'.strip('x') ~ 'xxaxx'.lstrip('x') ~ 'xxaxx'.rstrip('x')
'abc'.startswith('ab')
'abc'.startswith(('x', 'a'))
'abc'.endswith('bc')
'abc'.startswith(1)
'abcabc'.find('c') ~ 'abcabc'.rfind('c') ~ 'abc'.find('x')
'éa'.find('a')
'abc'.index('x')
'abcabc'.count('bc')
'abc'.replace('b', 'x')
'aaa'.replace('a', 'b', 2)
'-'.join(['a', 'b'])
'-'.join([1])
'a=b=c'.partition('=')
'a=b=c'.rpartition('=')
'abc'.partition('=')
lines.splitlines()
'12'.isdigit() ~ 'a'.isdigit() ~ ''.isdigit()
'ab'.isalpha() ~ 'a1'.isalnum() ~ ' '.isspace()
'AB'.isupper() ~ 'ab'.islower() ~ '1'.isupper()
'42'.zfill(5) ~ '-42'.zfill(5)
'ab'.ljust(4) ~ '|' ~ 'ab'.rjust(4, '.')
'prefix-x'.removeprefix('prefix-') ~ 'x.py'.removesuffix('.py')
'Hello'.capitalize()
d.get('b')
d.get('x')
d.get('x', 5)
d.keys()|list
d.values()|list
l.index(2)
l.count(3)
l.index(9)
range(5)|list
range(2, 5)|list
range(5, 0, -2)|list
range(0)|list
range(1, 2, 0)
range('a')
dict(a=1, b=2)
dict({'x': 1}, y=2)
dict([('a', 1)])
namespace(a=1).a
raise_exception('no')
'x'|safe + '<'
'<' + 'x'|safe
'x'|safe ~ '<'
'<' + ('a' ~ 'b')
s|upper|lower|length + 1
l|length > 2 and l|first == 3
(l|length)
l | join ( ',' )
[x for x in l]
a.b.
1 +
)
'abc
"""

TEMPLATES = [
    # White space.
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}  \n  b\n  {% endif %}\nc\n\n",
    "a\n  {%- if true -%}\n  b\n  {%- endif -%}\n c",
    "a\n  {%+ if true +%}\n  b\n  {%+ endif %}\n c",
    "  {{ 1 }}  \n  {{- 2 -}}  \n {{ 3 }}\n{{+ 4 }}",
    "a {# c #} b\n{# line #}\nc\n  {#- x -#}  \nd {#+ y +#}\n e",
    "{% raw %}{{ x }} {% if %}{% endraw %}|{% raw -%}  \n a {%- endraw %}\n|\n  {% raw %} b\n  {% endraw %}\n c",
    "{%- set x = 1 -%}\n\n  {{ x }}  {% set y = 2 %}\n{{ y }}",
    "a\r\nb\rc\n{% set x = 1 %}\r\nd",
    "{{ 'a' }}\n",
    "{{ 'a' }}\n\n",
    "\n\n",
    "{% for x in [1, 2] %}\n  {{ x }}\n{% endfor %}\n",
    "x{% if true %}y{% endif %}z",
    "\t {% if true %}\ty{% endif %}",
    "{ { } } {x} %} }} #}",
    "{{ {'a': {'b': 1}}['a']['b'] }}{{ {} }}",
    "{{ '}}' }}{% set x = '%}' %}{{ x }}{# {{ #}",
    "{#- -#}x{#-#}y",
    "{{1}}{{-1}}{{- -1}}",
    # Statements.
    "{% if nothing %}a{% elif 0 %}b{% elif 1 %}c{% else %}d{% endif %}",
    "{% if '' %}a{% else %}b{% endif %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }} {% endfor %}",
    "{% for x in [] %}a{% else %}none{% endfor %}",
    "{% for x in nothing %}a{% else %}none{% endfor %}",
    "{% for x in 5 %}a{% endfor %}",
    "{% for x in none %}a{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }};{% endfor %}",
    "{% for c in 'aé' %}{{ c }};{% endfor %}",
    "{% for a, b in [[1, 2], [3, 4]] %}{{ a + b }};{% endfor %}",
    "{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}",
    "{% for (a, b), c in [[[1, 2], 3]] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}:{{ x }}/{{ loop.length }} {% endfor %}",
    "{% for x in l if x > 9 %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}",
    "{% for x in tree recursive %}{{ x.v }}@{{ loop.depth }}({{ loop(x.kids) }}){% endfor %}",
    "{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}",
    "{% for x in l %}{% set y = x %}{% endfor %}{{ y }}{{ x }}",
    "{% set y = 0 %}{% for x in l %}{% set y = y + x %}{{ y }} {% endfor %}{{ y }}",
    "{% set ns = namespace(y=0) %}{% for x in l %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b }}{{ ns.b is defined }}",
    "{% set x.y = 1 %}",
    "{% set d.y = 1 %}",
    "{% if true %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a = 1, 2 %}{{ a }}",
    "{% set a, b = [1] %}",
    "{% set x %}a{{ n }}{% endset %}{{ x|length }}{{ x }}",
    "{% set x | upper | replace('A', 'B') %}a{{ n }}{% endset %}{{ x }}",
    "{% filter upper %}a{{ s }}{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set c = 3 %}{{ c }}{% endwith %}{{ a }}{{ c }}",
    "{% set a = 5 %}{% with b = a %}{% set a = 6 %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(x=2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}",
    "{% macro m() %}{{ y }}{% endmacro %}{% set y = 3 %}{{ m() }}",
    "{% set y = 1 %}{% macro m() %}{% set y = 2 %}{{ y }}{% endmacro %}{{ m() }}{{ y }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(4) }}",
    "{% macro m(a) %}[{{ caller() }}{{ a }}]{% endmacro %}{% call m(1) %}x{{ n }}{% endcall %}",
    "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}-{{ b }}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(*[1]) }}{{ m(**{'a': 2}) }}",
    "{% macro m() %}a{% endmacro %}{{ m()|upper ~ m() }}{{ m is defined }}{{ m.name }}",
    "{% for x in l %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% set x = [] %}{% set _ = x.append(1) %}{% set _ = x.extend([2, 3]) %}{{ x }}{{ x.pop() }}{{ x }}",
    "{% set x = {'a': 1} %}{% set _ = x.update({'b': 2}) %}{{ x.pop('a') }}{{ x }}{{ x.setdefault('c', 3) }}{{ x }}{{ x.pop('z', 9) }}",
    "{% set x = [1] %}{% set y = x %}{% set _ = y.append(2) %}{{ x }}",
    "{% set x = [1, 2] %}{% set _ = x.insert(0, 0) %}{{ x }}{% set _ = x.insert(-1, 9) %}{{ x }}",
    "{% set x = {'a': 1} %}{{ x.pop('b') }}",
    "{% generation %}a{{ n }}{% endgeneration %}",
    "{% autoescape false %}{{ '<' }}{% endautoescape %}",
    "{% if true %}",
    "{% endif %}",
    "{% nosuch %}",
    "{% set true = 1 %}",
    "{% for x in l %}",
    "{% macro %}{% endmacro %}",
    "{{ 1 }",
    "{% if 1 }}",
    "{# open",
    "{{ loop }}",
    "{{ 'a' if true }}{{ 'b' if false }}|",
    "{{ 1, 2 }}",
    "{% set x = 'a' if n > 5 else 'b' %}{{ x }}",
    "{% for x in l if x is odd %}{{ x }}{% endfor %}",
    "{% for p in people if p.tags is defined and p.tags %}{{ p.name }}{% endfor %}",
    "{{ range }}" * 0 + "{{ dict(a=1).a }}",
    "{% if s is string and s is not none and (l is iterable and l is not mapping) %}y{% endif %}",
    "{{ s if s is defined else 'x' }}{{ nothing if nothing is defined else 'x' }}",
]


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


env = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception


def render(source):
    try:
        return env.from_string(source).render(**json.loads(json.dumps(VARS)))
    except Exception:
        return None


expressions = EXPRESSIONS.strip("\n").replace("\\\nx", "\\\0x").split("\n")
sources = ["{{ " + e.replace("\0", "\n") + " }}" for e in expressions] + TEMPLATES
json.dump({"vars": VARS, "cases": [{"source": s, "want": render(s)} for s in sources]}, sys.stdout, ensure_ascii=False, indent=0)
print()
