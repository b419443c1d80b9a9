"""Oracles and questions that the tests of asking share."""

from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.questions import Answer, Usage, pair_question

TEXTS = [f"note {number}" for number in range(61)]
QUESTIONS = [pair_question(TEXTS, number, number + 1) for number in range(60)]
SPENT = Usage(10, 1, 1)


class Scripted:
    fingerprint = "scripted"

    def __init__(self, reply=None, **attributes):
        self.reply = reply or (lambda question: "yes")
        self.asked = []
        vars(self).update(attributes)

    def answer(self, questions):
        for question in questions:
            self.asked.append(question)
            reply = self.reply(question)
            if isinstance(reply, BaseException):
                raise reply
            yield Answer(reply, usage=SPENT) if reply is None or isinstance(reply, str) else reply


class Metered(Scripted):
    def __init__(self, worst, reply=None, **attributes):
        super().__init__(reply, **attributes)
        self.worst = worst

    def worst_case(self, question):
        return self.worst


def in_turn(*replies):
    left = list(replies)
    return lambda question: left.pop(0)


def failing_at(failures):
    return lambda question: failures.get(question.anchor_index, "yes")


def stored(store):
    return {question.anchor_index: answer.choice for _, question, answer in store}


def errors(answers):
    return [answer.error for answer in answers]


def ask(session, questions, limit=1000):
    return session.ask(questions, QuestionCap(limit))
