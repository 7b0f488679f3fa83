package longbench

import "github.com/twilight-go/twilight/internal/eval/task"

// dataset is how one of LongBench's is asked and scored.
type dataset struct {
	prompt    string // with {context} and {input}
	maxTokens int    // of the answer
	metric    metric
	raw       bool // without a chat template: few-shot examples, and code
	firstLine bool // only the answer's first line counts
	stop      []string
}

// metric compares an answer with a reference.
type metric struct {
	name  string
	score func(answer, reference string, s *task.Sample) float64
}

var (
	f1 = metric{"f1", func(a, r string, _ *task.Sample) float64 { return task.F1(task.Words(a), task.Words(r)) }}
	// Of characters, where the original has words of the segmenter jieba.
	f1Chinese      = metric{"f1_zh_char", func(a, r string, _ *task.Sample) float64 { return task.F1(task.Characters(a), task.Characters(r)) }}
	rouge          = metric{"rouge-l", func(a, r string, _ *task.Sample) float64 { return task.RougeL(a, r) }}
	rougeChinese   = metric{"rouge-l_zh_char", func(a, r string, _ *task.Sample) float64 { return task.RougeLCharacters(a, r) }}
	classification = metric{"classification", func(a, r string, s *task.Sample) float64 { return task.ClassMatch(a, r, s.Classes) }}
	count          = metric{"count", func(a, r string, _ *task.Sample) float64 { return task.CountMatch(a, r) }}
	paragraph      = metric{"retrieval", func(a, r string, _ *task.Sample) float64 { return task.RetrievalMatch(a, r, "Paragraph ") }}
	paragraphZh    = metric{"retrieval_zh", func(a, r string, _ *task.Sample) float64 { return task.RetrievalMatch(a, r, "段落") }}
	code           = metric{"code_sim", func(a, r string, _ *task.Sample) float64 { return task.CodeSimilarity(a, r) }}
)

const (
	passages = "Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\nThe following are given passages.\n{context}\n\n" +
		"Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\nQuestion: {input}\nAnswer:"
	concisely = "concisely as you can, using a single phrase if possible. Do not provide any explanation.\n\n" // "asconcisely" is so in the benchmark
	article   = " as concisely as you can, using a single phrase or sentence if possible. If the question cannot be answered based on the information in the article, write \"unanswerable\". " +
		"If the question is a yes/no question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any explanation.\n\n"
)

// datasets are LongBench's 21: prompts, answer lengths and metrics of its published configuration.
var datasets = map[string]dataset{
	"narrativeqa": {metric: f1, maxTokens: 128, prompt: "You are given a story, which can be either a novel or a movie script, and a question. Answer the question as" + concisely +
		"Story: {context}\n\nNow, answer the question based on the story as" + concisely + "Question: {input}\n\nAnswer:"},
	"qasper": {metric: f1, maxTokens: 128, prompt: "You are given a scientific article and a question. Answer the question" + article +
		"Article: {context}\n\n Answer the question based on the above article" + article + "Question: {input}\n\nAnswer:"},
	"multifieldqa_en": {metric: f1, maxTokens: 64, prompt: "Read the following text and answer briefly.\n\n{context}\n\n" +
		"Now, answer the following question based on the above text, only give me the answer and do not output any other words.\n\nQuestion: {input}\nAnswer:"},
	"multifieldqa_zh": {metric: f1Chinese, maxTokens: 64, prompt: "阅读以下文字并用中文简短回答：\n\n{context}\n\n现在请基于上面的文章回答下面的问题，只告诉我答案，不要输出任何其他字词。\n\n问题：{input}\n回答："},
	"hotpotqa":        {metric: f1, maxTokens: 32, prompt: passages},
	"2wikimqa":        {metric: f1, maxTokens: 32, prompt: passages},
	"musique":         {metric: f1, maxTokens: 32, prompt: passages},
	"dureader":        {metric: rougeChinese, maxTokens: 128, prompt: "请基于给定的文章回答下述问题。\n\n文章：{context}\n\n请基于上述文章回答下面的问题。\n\n问题：{input}\n回答："},
	"gov_report": {metric: rouge, maxTokens: 512, prompt: "You are given a report by a government agency. Write a one-page summary of the report.\n\nReport:\n{context}\n\n" +
		"Now, write a one-page summary of the report.\n\nSummary:"},
	"qmsum": {metric: rouge, maxTokens: 512, prompt: "You are given a meeting transcript and a query containing a question or instruction. Answer the query in one or more sentences.\n\n" +
		"Transcript:\n{context}\n\nNow, answer the query based on the above meeting transcript in one or more sentences.\n\nQuery: {input}\nAnswer:"},
	"multi_news": {metric: rouge, maxTokens: 512, prompt: "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n{context}\n\n" +
		"Now, write a one-page summary of all the news.\n\nSummary:"},
	"vcsum":    {metric: rougeChinese, maxTokens: 512, prompt: "下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录：\n{context}\n\n会议总结："},
	"trec":     {metric: classification, maxTokens: 64, raw: true, firstLine: true, prompt: "Please determine the type of the question below. Here are some examples of questions.\n\n{context}\n{input}"},
	"triviaqa": {metric: f1, maxTokens: 32, raw: true, firstLine: true, prompt: "Answer the question based on the given passage. Only give me the answer and do not output any other words. The following are some examples.\n\n{context}\n\n{input}"},
	// A line of dialogue would follow the summary.
	"samsum": {metric: rouge, maxTokens: 128, raw: true, firstLine: true, stop: []string{"\n"}, prompt: "Summarize the dialogue into a few short sentences. The following are some examples.\n\n{context}\n\n{input}"},
	"lsht":   {metric: classification, maxTokens: 64, raw: true, firstLine: true, prompt: "请判断给定新闻的类别，下面是一些例子。\n\n{context}\n{input}"},
	"passage_count": {metric: count, maxTokens: 32, prompt: "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please carefully read these paragraphs and " +
		"determine how many unique paragraphs there are after removing duplicates. In other words, how many non-repeating paragraphs are there in total?\n\n{context}\n\n" +
		"Please enter the final count of unique paragraphs after removing duplicates. The output format should only contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is: "},
	"passage_retrieval_en": {metric: paragraph, maxTokens: 32, prompt: "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph the abstract is from.\n\n{context}\n\n" +
		"The following is an abstract.\n\n{input}\n\nPlease enter the number of the paragraph that the abstract is from. The answer format must be like \"Paragraph 1\", \"Paragraph 2\", etc.\n\nThe answer is: "},
	"passage_retrieval_zh": {metric: paragraphZh, maxTokens: 32, prompt: "以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n{context}\n\n下面是一个摘要\n\n{input}\n\n" +
		"请输入摘要所属段落的编号。答案格式必须是\"段落1\"，\"段落2\"等格式\n\n答案是："},
	"lcc":         {metric: code, maxTokens: 64, raw: true, prompt: "Please complete the code given below. \n{context}Next line of code:\n"},
	"repobench-p": {metric: code, maxTokens: 64, raw: true, prompt: "Please complete the code given below. \n{context}{input}Next line of code:\n"},
}
