"""Chat templates and conversations that the tests of the evaluator are made of.

`TEMPLATES` are whole chat templates: the styles that models of the family are published with, and
variations of them. `FEATURES` are small templates, one for each rule of Jinja that chat templates
lean on. make_golden.py writes down what transformers makes of them, tests/parity compares live.
"""

VISION = "<|vision_start|><|image_pad|><|vision_end|>"

QWEN2 = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Image {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

LAID_OUT = """{# the same over lines #}
{%- for message in messages %}
    {%- if loop.first and message.role != "system" %}
        {{- "<|im_start|>system\\nBe brief.<|im_end|>\\n" }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for item in message.content %}
            {%- if item.type == "image" %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif "text" in item %}
                {{- item.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {%- if messages[0].content is string %}
            {{- messages[0].content }}
        {%- else %}
            {%- for content in messages[0].content %}
                {%- if 'text' in content %}
                    {{- content.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nFunction signatures are within <tools></tools> tags:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n<|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' }}
        {%- if messages[0].content is string %}
            {{- messages[0].content }}
        {%- else %}
            {%- for content in messages[0].content %}
                {%- if 'text' in content %}
                    {{- content.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set image_count = namespace(value=0) %}
{%- set video_count = namespace(value=0) %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.content is string %}
            {{- message.content }}
        {%- else %}
            {%- for content in message.content %}
                {%- if content.type == 'image' or 'image' in content or 'image_url' in content %}
                    {%- set image_count.value = image_count.value + 1 %}
                    {%- if add_vision_id %}Image {{ image_count.value }}: {% endif -%}
                    <|vision_start|><|image_pad|><|vision_end|>
                {%- elif content.type == 'video' or 'video' in content %}
                    {%- set video_count.value = video_count.value + 1 %}
                    {%- if add_vision_id %}Video {{ video_count.value }}: {% endif -%}
                    <|vision_start|><|video_pad|><|vision_end|>
                {%- elif 'text' in content %}
                    {{- content.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.content is string %}
            {{- message.content }}
        {%- else %}
            {%- for content_item in message.content %}
                {%- if 'text' in content_item %}
                    {{- content_item.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and message.content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

MACRO = """{%- macro show(content, mark='<|vision_start|><|image_pad|><|vision_end|>') -%}
    {%- if content is string -%}{{ content }}
    {%- else -%}
        {%- for item in content -%}
            {%- if item.type == 'image' -%}{{ mark }}{%- else -%}{{ item['text'] }}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(system='You look at images.', rest=messages) -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set ns.system = show(messages[0]['content']) -%}
    {%- set ns.rest = messages[1:] -%}
{%- endif -%}
{{ '<|im_start|>system\\n' ~ ns.system | trim ~ '<|im_end|>\\n' }}
{%- for m in ns.rest -%}
    {{ '<|im_start|>' ~ m.role ~ '\\n' ~ show(m.content) ~ '<|im_end|>' ~ '\\n' }}
{%- endfor -%}
{{ '<|im_start|>assistant\\n' if add_generation_prompt else '' }}"""

CONTENT = ("{% for c in m.content %}{% if c.type == 'image' %}" + VISION + "{% else %}{{ c.text }}{% endif %}{% endfor %}")
TURN = "<|im_start|>{{ m.role }}\n" + CONTENT + "<|im_end|>\n"
LAST = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def variation(of, *edits):
    for old, new in edits:
        if old not in of:
            raise ValueError(f"{old!r} is not in the template")
        of = of.replace(old, new)
    return of


TEMPLATES = {
    "Qwen2-VL": QWEN2,
    "laid out": LAID_OUT,
    "Qwen3-VL": QWEN3,
    "macro": MACRO,
    "lines end with CR LF": LAID_OUT.replace("\n", "\r\n"),
    "lines end with CR": LAID_OUT.replace("\n", "\r"),
    "no default system text": variation(QWEN2, ("{% if loop.first and message['role'] != 'system' %}", "{% if false %}")),
    "default system text if tools": variation(QWEN2, ("{% if loop.first and", "{% if tools and loop.first and")),
    "default system text if not tools": variation(QWEN2, ("{% if loop.first and", "{% if not tools and loop.first and")),
    "the first message is skipped": variation(QWEN2, ("for message in messages", "for message in ([{'role': 'user', 'content': []}] + messages)[1:]")),
    "text reversed": variation(QWEN2, ("{{ content['text'] }}", "{{ content['text'] | reverse }}")),
    "content reversed": variation(QWEN2, ("for content in message['content']", "for content in message['content'] | reverse")),
    "content reversed by a slice": variation(QWEN2, ("for content in message['content']", "for content in message['content'][::-1]")),
    "role changed by set": "{% for m in messages %}{% set role = 'human' if m.role == 'user' else m.role %}<|im_start|>{{ role }}\n" + CONTENT + "<|im_end|>\n{% endfor %}" + LAST,
    "role changed by set, in place": "{% for m in messages %}{% if m.role == 'user' %}{% set m = dict(m, role='human') %}{% endif %}" + TURN + "{% endfor %}" + LAST,
    "a filter block": variation(QWEN2, ("{{ content['text'] }}", "{% filter upper %}{{ content['text'] }}!{% endfilter %}")),
    "text only without an image": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% set images = m.content | selectattr('type', 'equalto', 'image') | list %}{% for c in m.content %}{% if c.type == 'image' %}" + VISION + "{% elif not images %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}" + LAST,
    "generation prompt negated": variation(QWEN2, ("{% if add_generation_prompt %}", "{% if not add_generation_prompt %}")),
    "system text at the last turn": variation(QWEN2, ("loop.first and message['role'] != 'system'", "loop.last")),
    "system text of messages[0] or a default": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'][0]['text'] %}{% else %}{% set loop_messages = messages %}{% set system_message = 'You answer with boxes.' %}{% endif %}<|im_start|>system\n{{ system_message }}<|im_end|>\n{% for m in loop_messages %}" + TURN + "{% endfor %}" + LAST,
    "role by get with a default": "{% for message in messages %}<|im_start|>{{ message.get('role') | default('user') }}\n{% for c in message.get('content', []) %}{% if c.get('type') == 'image' %}" + VISION + "{% else %}{{ c.get('text') or '' }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}" + LAST,
    "text trimmed": variation(QWEN2, ("{{ content['text'] }}", "{{ content['text'] | trim }}")),
    "text stripped by a method": variation(QWEN2, ("{{ content['text'] }}", "{{ content['text'].strip() + ' ' }}")),
    "text split": variation(QWEN2, ("{{ content['text'] }}", "{{ content['text'].split('cat')[-1] }}")),
    "text replaced": variation(QWEN2, ("{{ content['text'] }}", "{{ content['text'].replace('the', 'a') | replace('.', '!') }}")),
    "text as JSON": variation(QWEN2, ("{{ content['text'] }}", "{{ content | tojson }}{{ content['text'] | tojson(indent=2) }}")),
    "text joined": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | selectattr('type', 'equalto', 'image') | map(attribute='type') | map('replace', 'image', '" + VISION + "') | join('\n') }}{{ m.content | selectattr('text', 'defined') | map(attribute='text') | join(' ') | trim }}<|im_end|>\n{% endfor %}" + LAST,
    "numbered images": variation(QWEN2, ("{% if add_vision_id %}", "{% if true %}")),
    "images before the text": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content if c.type == 'image' %}Image {{ loop.index }} of {{ loop.length }}: " + VISION + "\n{% else %}(no image)\n{% endfor %}{% for c in m.content if c.type != 'image' %}{{ c.text }}{% endfor %}<|im_end|>\n{% endfor %}" + LAST,
    "system text once, then merged into the user's": "{% set ns = namespace(system='', first=true) %}{% for m in messages %}{% if m.role == 'system' %}{% for c in m.content %}{% set ns.system = ns.system + c.text %}{% endfor %}{% continue %}{% endif %}<|im_start|>{{ m.role }}\n{% if m.role == 'user' and ns.first %}{% set ns.first = false %}{{ ns.system ~ '\n\n' if ns.system }}{% endif %}" + CONTENT + "<|im_end|>\n{% endfor %}" + LAST,
    "another marker for turns": "{{ bos_token }}{% for m in messages %}[{{ m.role | upper }}] " + CONTENT + "{{ eos_token }}\n{% endfor %}[ASSISTANT] ",
    "generation blocks": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}" + CONTENT + "<|im_end|>{% endgeneration %}\n{% else %}" + CONTENT + "<|im_end|>\n{% endif %}{% endfor %}" + LAST,
    "break after four turns": "{% for m in messages %}{% if loop.index > 4 %}{% break %}{% endif %}" + TURN + "{% endfor %}" + LAST,
    "roles must alternate": "{% for m in messages %}{% if m.role != 'system' and loop.previtem is defined and loop.previtem.role == m.role %}{{ raise_exception('Roles must alternate, not ' ~ m.role) }}{% endif %}" + TURN + "{% endfor %}" + LAST,
    "text without its special-looking parts": variation(QWEN2, ("{{ content['text'] }}", "{{ content['text'] | replace('<|', '< |') }}")),
    "a system block set": "{% set system %}You see\n  {{ messages | length }} messages.{% endset %}<|im_start|>system\n{{ system | indent(2) }}<|im_end|>\n{% for m in messages if m.role != 'system' %}" + TURN + "{% endfor %}" + LAST,
    "with blocks": "{% for m in messages %}{% with role = m.role, end = '<|im_end|>\n' %}<|im_start|>{{ role }}\n" + CONTENT + "{{ end }}{% endwith %}{% endfor %}" + LAST,
    "raw text": "{% raw %}<|im_start|>system\n{{ not evaluated }}<|im_end|>\n{% endraw %}{% for m in messages %}" + TURN + "{% endfor %}" + LAST,
}

PLAIN = "find the red apple"
TEXTS = [PLAIN, "  \n the cat\tand The Dog.  ", "找到图里右下角的红色椅子", "e\u0301 Straße ΣΑΣ ﬁ İ 'quoted' \"both\" \\ \n<b>&amp;</b> 👩\u200d👩 \x07"]


def text(t):
    return {"type": "text", "text": t}


IMAGE = {"type": "image"}


def user(*content):
    return {"role": "user", "content": list(content)}


def assistant(*content):
    return {"role": "assistant", "content": list(content)}


def system(*content):
    return {"role": "system", "content": list(content)}


CONVERSATIONS = {
    "no image": [user(text(PLAIN))],
    "one image": [user(IMAGE, text(PLAIN))],
    "the image last": [user(text("\nlook: "), IMAGE)],
    "several images": [user(IMAGE, text("the"), IMAGE, IMAGE, text(" cat."))],
    "images in several turns": [user(IMAGE, text("the cat")), assistant(text("[]")), user(IMAGE, text("and here?"))],
    "own system text": [system(text("Answer with boxes.\n")), user(IMAGE, text("the cat"))],
    "empty system text": [system(text("")), user(text(PLAIN))],
    "system text in two parts": [system(text("One. "), text("Two.")), user(IMAGE)],
    "five turns": [system(text("S")), user(IMAGE, text("a")), assistant(text("b")), user(text("c")), assistant(text("d")), user(text("e\n"))],
    "two users in a row": [user(text("a")), user(IMAGE, text("b"))],
    "no content": [user(), user(IMAGE)],
} | {f"text {i}": [user(IMAGE, text(t))] for i, t in enumerate(TEXTS)}

T = "{% set t = messages[0].content[-1].text %}"
FEATURES = [
    # white space
    "a\n", "a\n\n", "  {% if true %}\n  x\n  {% endif %}\n  y", "x {%- if true -%}  y  {%- endif -%} z", "  {%+ if true %}\n x {% endif +%}\n z",
    "{# c #}\nx{# c -#}  \n y {#- d #}", "x\n  {# c #}\n  y", "\t {% if true %}a{% endif %}", "a  {{- 'b' -}}  c", "{{ 'b' }}\n{{ 'c' }}\n\n",
    "{% raw %}{{ x }}{% if %}{% endraw %}", "{% raw -%}  a  {%- endraw %}\n b", "  {% raw %} a\n  {% endraw %}\nb", "{%- raw %}\n a{% endraw -%}\n b",
    "\u3000{%- if true %}\u00a0{%- endif %}x", "{% if true\n%}\na{%\nendif\n%}\nb", "{{ '}}' }}{{ '%}' }}{{ \"{#\" }}", "{{ {'a': {'b': 1}}['a']['b'] }}",
    "{# {{ #}a{# %} #}b", "{{ '{{' }}", "{", "{ {% if true %}{%endif%} }", "}} %} #}",
    # literals
    r"""{{ 'a\n\t\\\'"\x41\u4f60\U0001F600\101\q' }}""", r'''{{ "a'b\"c" 'd' "e" }}''', "{{ 1_000 }} {{ 1.5e3 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1e-5 }} {{ 123456789.0 }} {{ 2.0 }}",
    "{{ true }}{{ True }}{{ false }}{{ none }}{{ None }}", "{{ [1, 'a', none, 2.5, true] }} {{ (1,) }} {{ () }} {{ (1, 2) }} {{ {} }} {{ {'a': [1], 'b': \"it's\"} }}", "{{ 1, 2 }}",
    r"{{ ['\n\t\\', '\x07\xad\u200b', 'é你', '\'', '\'\"'] }}", "{{ 'a\\\nb' }}", "{{ 'é\\é\\你' }}",
    # operators
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}", "{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }}",
    "{{ 'a' ~ 1 ~ none ~ [1] ~ x }}", "{{ 'ab' * 3 }} {{ 2 * 'x' }} {{ [1] * 2 }} {{ [1] + [2] }} {{ (1,) + (2,) }}", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' <= 'b' }} {{ 1 == 1.0 == true }}",
    "{{ 1 in [1, 2] }} {{ 'a' in 'cat' }} {{ 'x' not in {'x': 1} }} {{ 3 not in (1, 2) }}", "{{ '' or 'b' }} {{ 'a' and 'b' }} {{ 0 and x.y }} {{ not '' }} {{ not not 1 }}", "{{ 'yes' if 1 else 'no' }}{{ 'yes' if 0 }}{{ 1 if 0 else 2 if 0 else 3 }}",
    "{{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1.0} }} {{ (1,) == [1] }} {{ 'a' == 1 }} {{ none == false }} {{ x == y }}", "{{ (1 + 1) ~ 2 }} {{ 1 ~ 2 * 3 }} {{ - 1 | abs }} {{ -1 | abs }} {{ +1 }}", "{{ [1,2] < [1,3] }} {{ 'B' < 'a' }}",
    "{{ 'a' if 'x' is defined else 'b' }}", "{{ not x is defined }} {{ 1 + 1 is number }} {{ 1 is not none }}",
    # access
    T + "{{ t[0] }}{{ t[-1] }}{{ t[1:3] }}{{ t[::-1] }}{{ t[:3] }}{{ t[-3:] }}{{ t[::2] }}{{ t[99] }}{{ t[5:2] }}", "{{ messages[0]['role'] }}{{ messages[0].role }}{{ messages.0.role }}{{ messages[-1].content[0].type }}{{ messages[9] }}{{ messages[0].nothing }}",
    "{{ [1,2,3,4][1:-1] }}{{ [1,2,3][::-1] }}{{ (1,2,3)[:2] }}{{ [1,2,3][-5:5:2] }}{{ [1,2,3][5:] }}", "{{ {'a': 1}.a }}{{ {'a': 1}['b'] }}{{ {'a': 1}.get('b', 7) }}{{ {'a': 1}.get('b') }}", "{{ {'a': 1, 'b': 2}.keys() | list }}{{ {'a': 1, 'b': 2}.values() | list }}{{ {'a': 1}.items() | list }}",
    "{{ 'abc'[1] }}{{ '你好吗'[1] }}{{ '你好吗'[::-1] }}{{ '你好吗' | length }}", "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}", "{{ 'x'.y }}{{ 1 .y }}{{ none.x }}",
    # statements
    "{% for i in range(3) %}{{ i }}{% endfor %}{{ range(5, 0, -2) | list }}{{ range(2, 4) | list }}{{ range(0) | list }}", "{% for x in [] %}a{% else %}b{% endfor %}", "{% for i in [1,2,3] if i != 2 %}{{ loop.index }}/{{ loop.length }}:{{ i }} {% endfor %}",
    "{% for i in 'abc' %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('x', 'y') }}{{ loop.depth }} {% endfor %}", "{% for i in [1,1,2] %}{{ loop.changed(i) }}{% endfor %}",
    "{% for i in [1,2,3,4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% for i in [1,2] %}{% for j in 'ab' %}{{ i }}{{ j }}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}",
    "{% set x = 1 %}{% for i in [1,2] %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}", "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}", "{% for i in [1,2] %}{{ y }}{% set y = i %}{% endfor %}{{ y }}", "{% set ns = namespace(a=1, b='x') %}{% for i in [1,2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}",
    "{% set a, b = 1, 2 %}{{ b }}{{ a }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}", "{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]{% set y | upper | trim %} q {% endset %}[{{ y }}]", "{% set x = 1, 2 %}{{ x }}", "{% filter upper | replace('A', 'z') %}abc{{ 'a' }}{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set a = 5 %}{{ a }}{% endwith %}{{ a }}", "{% if 0 %}a{% elif '' %}b{% elif 1 %}c{% else %}d{% endif %}{% if none %}{% else %}e{% endif %}", "{% set x = 3 %}{% set x = x if x else 4 %}{{ x }}",
    "{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m() }}{{ m(1, 2, 3) | upper }}{{ m(b=m(0)) }}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% set g = 1 %}{% macro m() %}{{ g }}{% set g = 5 %}{{ g }}{% endmacro %}{% set g = 2 %}{{ m() }}{{ g }}",
    "{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(4) }}", "{% macro m(x) %}{% for i in x %}{{ i }}{% endfor %}{% endmacro %}{% for i in [[1,2],[3]] %}{{ m(i) }}{% endfor %}", "{% generation %}a{% set q = 1 %}{% endgeneration %}{{ q }}", "{% for a in [1] %}{% macro k() %}{{ a }}{% endmacro %}{{ k() }}{% endfor %}",
    # filters
    T + "{{ t | trim }}|{{ t | upper }}|{{ t | lower }}|{{ t | capitalize }}|{{ t | title }}|{{ t | length }}|{{ t | reverse }}|{{ t | replace('e', '3') }}|{{ t | replace('', '-') }}|{{ t | replace('t', 'T', 1) }}", T + "{{ t | list }}|{{ t | first }}|{{ t | last }}|{{ t | string }}|{{ t | e }}|{{ t | safe }}|{{ t | tojson }}|{{ t | tojson(ensure_ascii=true) }}",
    T + "{{ t.upper() }}|{{ t.lower() }}|{{ t.title() }}|{{ t.capitalize() }}|{{ t.strip() }}|{{ t.lstrip() }}|{{ t.rstrip() }}|{{ t.strip('f e') }}|{{ t.split() }}|{{ t.split(' ') }}|{{ t.split('e', 1) }}|{{ t.find('r') }}|{{ t.count('e') }}|{{ t.splitlines() }}", T + "{{ t.startswith('find') }}{{ t.endswith(('x', 'apple')) }}{{ t.replace('a', 'b', 1) }}{{ t.isupper() }}{{ t.islower() }}{{ t.isdigit() }}{{ t.isspace() }}{{ t.rsplit(' ', 1) }}{{ t.removeprefix('find') }}{{ t.rfind('e') }}",
    "{{ x | default('d') }}{{ '' | default('d') }}{{ '' | default('d', true) }}{{ none | d(1) }}{{ x.y | default('q') if x is defined else 'z' }}", "{{ [3,1,2] | sort }}{{ ['b','A','c'] | sort }}{{ ['b','A'] | sort(case_sensitive=true) }}{{ [1,2] | sort(reverse=true) }}{{ [{'a': 2}, {'a': 1}] | sort(attribute='a') }}",
    "{{ [1,2,3] | join }}{{ [1,2] | join(', ') }}{{ [{'a': 1}] | join('-', attribute='a') }}{{ [] | join('x') }}{{ 'abc' | join('.') }}", "{{ [1,2,1] | unique | list }}{{ ['a','A'] | unique | list }}{{ [1,5,2] | max }}{{ [4,2] | min }}{{ [1,2,3,4,5] | batch(2) | list }}{{ [1,2,3] | batch(2, 0) | list }}",
    "{{ {'b': 1, 'a': 2} | dictsort }}{{ {'b': 1, 'A': 2} | dictsort(by='value') }}{{ {'a': 1} | items | list }}{{ {'a': 1} | length }}{{ {'a': 1} | list }}", "{{ '12' | int + 1 }}{{ '3.7' | int }}{{ 'x' | int }}{{ 'x' | int(5) }}{{ 3.9 | int }}{{ '1.5' | float }}{{ 'x' | float }}{{ 1 | string + 'a' }}{{ 2.5 | round }}{{ 3.14159 | round(2) }}{{ 2.1 | round(0, 'ceil') }}{{ 7 | abs }}",
    "{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb\n' | indent('> ') }}", "{{ [1,2,3] | map('string') | list }}{{ ['a'] | map('upper') | join }}{{ [{'a': {'b': 1}}] | map(attribute='a.b') | list }}{{ [{}] | map(attribute='x', default=9) | list }}",
    "{{ [0,1,''] | select | list }}{{ [0,1] | reject | list }}{{ [1,2,3] | select('odd') | list }}{{ [1,2,3] | reject('eq', 2) | list }}{{ [{'a': 1}, {'a': 2}] | selectattr('a', 'gt', 1) | list }}{{ [{'a': 1}, {}] | rejectattr('a', 'defined') | list }}{{ [{'a': 0}, {'a': 1}] | selectattr('a') | list }}",
    "{{ {'a': [1, 2.5, none, true, 'é<\"\\n'], 'b': {}, 'c': []} | tojson }}", "{{ {'b': [1, {'x': 2}], 'a': 1} | tojson(indent=2, sort_keys=true) }}", "{{ [1, 2] | tojson(separators=(',', ':')) }}{{ 1.0 | tojson }}{{ 'é\\u2028' | tojson(ensure_ascii=true) }}", "{{ '<a>' | e }}{{ ('<a>' | safe) + '<b>' }}{{ ('<a>' | safe) ~ '<b>' }}{{ '<b>' + ('<a>' | e) }}{{ '<' | e | e }}{{ ('<' | e).upper() + '&' }}",
    "{{ '%s and %d %%' | format('a', 3) }}", "{{ [1,2,3] | first }}{{ [] | first }}{{ [1,2] | last }}{{ [1,2] | reverse | list }}{{ 'abc' | list }}{{ (1,2) | list }}", "{% if messages | selectattr('role', 'equalto', 'tool') %}true{% else %}false{% endif %}", "{{ 'hello world-foo (bar' | title }}{{ \"it's\".title() }}{{ 'ß ﬁ' | upper }}{{ 'ΣΑΣ' | lower }}",
    "{% set g = [1,2] | map('string') %}{{ g | join }}{{ g | join }}", "{{ [[1, 2], [3]] | map('length') | list }}{{ ['a b'] | map('title') | first }}",
    # tests
    "{{ x is defined }}{{ x is undefined }}{{ messages is defined }}{{ none is none }}{{ x is none }}{{ tools is none }}", "{{ 'a' is string }}{{ 1 is string }}{{ {} is mapping }}{{ [] is sequence }}{{ 'a' is sequence }}{{ {} is sequence }}{{ 1 is iterable }}{{ [] is iterable }}{{ x is iterable }}", "{{ 1 is number }}{{ true is number }}{{ true is integer }}{{ 1 is integer }}{{ 1.0 is float }}{{ true is boolean }}{{ 1 is boolean }}{{ true is true }}{{ 1 is true }}{{ false is false }}",
    "{{ 3 is odd }}{{ 3 is even }}{{ 6 is divisibleby 3 }}{{ 2 is eq 2 }}{{ 2 is equalto(3) }}{{ 2 is ne 3 }}{{ 2 is in [1, 2] }}{{ 2 is not in [1] }}{{ 2 is gt 1 }}{{ 2 is lessthan 1 }}{{ none is sameas none }}{{ 'A' is upper }}{{ 'a' is lower }}{{ range is callable }}",
    # errors
    "{{ x.y }}", "{{ x.y is defined }}", "{{ 1 + 'a' }}", "{{ none + 1 }}", "{{ [1] < 1 }}", "{% for i in 1 %}{% endfor %}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}", "{{ messages[0]() }}", "{{ 1 | length }}", "{% set a, b = [1] %}", "{{ x | tojson }}", "{{ 'a' in 1 }}", "{{ 1 in 'a' }}", "{{ messages.append(1) }}", "{{ {'a': 1}.update({}) }}", "{% set x = 1 %}{% set x.y = 2 %}",
    "{{ x() }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",  "{% set n = none %}{{ n[1:] }}", "{{ ([1]|map('string')) | length }}",
    # not Jinja
    "{{", "{{ 1", "{% if %}{% endif %}", "{% if 1 %}", "{% endif %}", "{% for x %}{% endfor %}", "{{ 'a }}", "{{ a b }}", "{# x", "{% raw %} x", "{{ ) }}", "{{ (1 }}", "{% set 1 = 2 %}", "{% else %}", "{{ 1 | nothing }}", "{{ 1 is nothing }}", "{% nothing %}", "{% break %}", "{{ $ }}", "{{ {'a' 1} }}", "{% macro m %}{% endmacro %}", "{{ f(a=1, 2) }}", "{% for true in [] %}{% endfor %}",
]
